//! What a program is compiled to: steps for a machine with a stack.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::value::Value;

/// Where a variable is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    Global(u32),
    /// A parameter of the function that runs.
    Local(u32),
}

/// What can be assigned to. What names it more closely lies on the stack: the key of an element, the number
/// of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Variable(Slot),
    Element(Slot),
    Field,
}

/// Operators with two operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Power,
    Concatenate,
    Less,
    LessEqual,
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
}

macro_rules! builtins {
    ($($variant:ident = $name:literal, $least:literal, $most:literal;)*) => {
        /// Functions that are built in.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Builtin {
            $($variant),*
        }

        impl Builtin {
            /// The function with a name.
            pub(super) fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Its name, and how many arguments it takes at least and at most.
            pub(super) fn about(self) -> (&'static str, u32, u32) {
                match self {
                    $(Self::$variant => ($name, $least, $most)),*
                }
            }
        }
    };
}

builtins! {
    Atan2 = "atan2", 2, 2;
    Cos = "cos", 1, 1;
    Sin = "sin", 1, 1;
    Exp = "exp", 1, 1;
    Log = "log", 1, 1;
    Sqrt = "sqrt", 1, 1;
    Int = "int", 1, 1;
    Rand = "rand", 0, 0;
    Srand = "srand", 0, 1;
    Length = "length", 0, 1;
    Index = "index", 2, 2;
    Match = "match", 2, 2;
    Split = "split", 2, 3;
    Sub = "sub", 2, 3;
    Gsub = "gsub", 2, 3;
    Gensub = "gensub", 3, 4;
    Sprintf = "sprintf", 1, 1000;
    Substr = "substr", 2, 3;
    Tolower = "tolower", 1, 1;
    Toupper = "toupper", 1, 1;
    Close = "close", 1, 1;
    System = "system", 1, 1;
    Fflush = "fflush", 0, 1;
    Systime = "systime", 0, 0;
    Strftime = "strftime", 0, 2;
    And = "and", 2, 2;
    Or = "or", 2, 2;
    Xor = "xor", 2, 2;
    Compl = "compl", 1, 1;
    Lshift = "lshift", 2, 2;
    Rshift = "rshift", 2, 2;
}

/// Where `getline` reads from; a name lies on the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LineSource {
    Main,
    File,
    Command,
}

/// Where `print` writes to; a name lies on the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    Standard,
    File,
    Append,
    Command,
}

/// A step. What it takes is on top of the stack, what it gives comes there.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Step {
    /// Puts a constant on the stack.
    Constant(u32),
    Load(Place),
    /// Takes a value, assigns it, and leaves it.
    Store(Place),
    /// Loads without taking what names the place.
    LoadKept(Place),
    /// Adds to a place and gives the new value.
    Change(Place, f64),
    /// Adds to a place and gives the old value.
    ChangeAfter(Place, f64),
    /// A name as an argument: an array, a value, or nothing yet.
    Argument(Slot),
    Drop,
    Binary(Binary),
    Negate,
    Plus,
    Not,
    /// 1 or 0 for what is true or not.
    Truth,
    /// Whether `$0` matches the constant.
    MatchRecord(u32),
    /// Whether a text matches an expression.
    Match,
    /// Joins so many keys.
    JoinKeys(u32),
    Contains(Slot),
    Delete(Slot),
    DeleteAll(Slot),
    Jump(u32),
    JumpIfFalse(u32),
    JumpIfTrue(u32),
    /// Jumps when the range has begun.
    JumpInRange(u32, u32),
    SetRange(u32, bool),
    /// Begins a loop over the keys of an array.
    Keys(Slot),
    /// Assigns the next key, or ends the loop and jumps.
    NextKey(Place, u32),
    /// Leaves a loop over keys early.
    EndKeys,
    /// Calls a function with so many arguments.
    Call(u32, u32),
    Return,
    /// Calls a function that is built in with so many arguments.
    Builtin(Builtin, u32),
    /// `length` of a name, which may be an array.
    Length(Slot),
    /// `split` into an array; with an expression or a separator on the stack.
    Split(Slot, bool),
    /// `sub` or `gsub` on a place.
    Substitute {
        all: bool,
        place: Place,
    },
    Getline(LineSource),
    /// Assigns the line that was read, if one was.
    StoreLine(Place),
    /// As that, to `$0`.
    StoreRecord,
    Print(u32, Target),
    Printf(u32, Target),
    Next,
    NextFile,
    /// Ends with a code from the stack, or as it was.
    Exit(bool),
    /// The end of this part of the program.
    End,
}

/// Steps with the line that each was made of.
#[derive(Default, Debug)]
pub(super) struct Code {
    pub(super) steps: Vec<Step>,
    pub(super) lines: Vec<u32>,
}

/// A function.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) parameters: u32,
    pub(super) code: Rc<Code>,
}

/// A program.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) begin: Rc<Code>,
    pub(super) rules: Rc<Code>,
    pub(super) end: Rc<Code>,
    pub(super) functions: Vec<Function>,
    pub(super) constants: Vec<Value>,
    pub(super) globals: BTreeMap<String, u32>,
    pub(super) ranges: u32,
}

impl Program {
    /// Whether it reads records.
    pub(super) fn reads(&self) -> bool {
        self.rules.steps.len() > 1 || self.end.steps.len() > 1
    }
}

/// The slots of variables that mean something.
pub(super) mod special {
    macro_rules! special {
        ($($name:ident = $slot:literal),* $(,)?) => {
            $(pub(in super::super) const $name: u32 = $slot;)*
            /// The names by their slots.
            pub(in super::super) const NAMES: &[&str] = &[$(stringify!($name)),*];
        };
    }

    special! {
        NF = 0,
        NR = 1,
        FNR = 2,
        FS = 3,
        OFS = 4,
        RS = 5,
        ORS = 6,
        SUBSEP = 7,
        CONVFMT = 8,
        OFMT = 9,
        FILENAME = 10,
        RSTART = 11,
        RLENGTH = 12,
        ENVIRON = 13,
        ARGC = 14,
        ARGV = 15,
    }
}
