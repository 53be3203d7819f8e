//! A terminal's half of a conversation, which no guest can play: echo, editing of the line that is typed,
//! and the keys that mean something. A guest reads whole lines and writes plain line feeds, as a program on
//! Linux does whose terminal is in canonical mode.

/// Longest line that can be typed, as Linux has it; what is typed beyond it rings the bell.
const LINE_BYTES_MAX: usize = 4096;

const BELL: &[u8] = b"\x07";
/// Moves back over one column and clears it.
const RUB_OUT: &[u8] = b"\x08 \x08";

const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const CTRL_U: u8 = 0x15;
const CTRL_W: u8 = 0x17;
const CTRL_Z: u8 = 0x1a;
const ESCAPE: u8 = 0x1b;
/// Ends a program that listens to no other key.
pub(crate) const CTRL_BACKSLASH: u8 = 0x1c;
const DELETE: u8 = 0x7f;

/// The line that is being typed.
#[derive(Debug, Default)]
pub(crate) struct LineEditor {
    line: Vec<u8>,
    escape: Escape,
}

/// How far into a key's escape sequence the input is. Such keys move a cursor that a line here has not, and
/// are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// After the escape character.
    Begun,
    /// Inside a control sequence, whose last byte is a letter or one of `@[]^_{|}~`.
    Sequence,
}

/// What typing leads to, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Shown to the person; a line feed is written as [`to_screen`] does.
    Echo(Vec<u8>),
    /// Given to the program: a whole line, or what stands before an end of input.
    Line(Vec<u8>),
    /// One read of the program finds nothing, as at the end of a file.
    EndOfInput,
    /// The line was given up; if none was begun, the program is.
    Interrupt {
        /// Whether something had been typed.
        had_line: bool,
    },
    /// The program is given up in any case.
    Quit,
}

impl LineEditor {
    /// Takes what was typed.
    pub(crate) fn typed(&mut self, bytes: &[u8]) -> Vec<Typed> {
        let mut happened = Vec::new();
        for byte in bytes {
            if !self.is_escaped(*byte) {
                self.key(*byte, &mut happened);
            }
        }
        happened
    }

    fn is_escaped(&mut self, byte: u8) -> bool {
        let (escaped, next) = match (self.escape, byte) {
            (Escape::None, ESCAPE) => (true, Escape::Begun),
            (Escape::None, _) => (false, Escape::None),
            (Escape::Begun, b'[' | b'O') => (true, Escape::Sequence),
            (Escape::Begun, _) => (true, Escape::None),
            (Escape::Sequence, 0x40..=0x7e) => (true, Escape::None),
            (Escape::Sequence, _) => (true, Escape::Sequence),
        };
        self.escape = next;
        escaped
    }

    fn key(&mut self, byte: u8, happened: &mut Vec<Typed>) {
        match byte {
            b'\r' | b'\n' => {
                echo(happened, b"\n");
                let mut line = std::mem::take(&mut self.line);
                line.push(b'\n');
                happened.push(Typed::Line(line));
            }
            CTRL_C => {
                echo(happened, b"^C\n");
                let had_line = !std::mem::take(&mut self.line).is_empty();
                happened.push(Typed::Interrupt { had_line });
            }
            CTRL_BACKSLASH => {
                echo(happened, b"^\\\n");
                self.line.clear();
                happened.push(Typed::Quit);
            }
            CTRL_Z => {
                // Nobody could let the program go on again, so it is not stopped; Linux, too, only flushes
                // the line for a program that no shell has in its hands.
                echo(happened, b"^Z");
                self.line.clear();
            }
            CTRL_D if self.line.is_empty() => happened.push(Typed::EndOfInput),
            CTRL_D => happened.push(Typed::Line(std::mem::take(&mut self.line))),
            BACKSPACE | DELETE => {
                self.rub_out(happened);
            }
            CTRL_U => while self.rub_out(happened) {},
            CTRL_W => {
                while self.line.last() == Some(&b' ') && self.rub_out(happened) {}
                while self.line.last().is_some_and(|byte| *byte != b' ') && self.rub_out(happened) {
                }
            }
            _ if self.line.len() == LINE_BYTES_MAX => echo(happened, BELL),
            b'\t' | b' '..=b'~' | 0x80.. => {
                self.line.push(byte);
                echo(happened, &[byte]);
            }
            _ => {
                self.line.push(byte);
                echo(happened, &[b'^', byte + 0x40]);
            }
        }
    }

    /// Takes back the last character; false when there is none.
    fn rub_out(&mut self, happened: &mut Vec<Typed>) -> bool {
        let Some(mut last) = self.line.pop() else {
            return false;
        };
        while last & 0xc0 == 0x80 {
            // The rest of a character of several bytes.
            let Some(before) = self.line.pop() else { break };
            last = before;
        }
        echo(happened, RUB_OUT);
        if last.is_ascii_control() && last != b'\t' {
            // It was shown as two.
            echo(happened, RUB_OUT);
        }
        true
    }
}

fn echo(happened: &mut Vec<Typed>, bytes: &[u8]) {
    match happened.last_mut() {
        Some(Typed::Echo(before)) => before.extend_from_slice(bytes),
        Some(Typed::Line(_) | Typed::EndOfInput | Typed::Interrupt { .. } | Typed::Quit) | None => {
            happened.push(Typed::Echo(bytes.to_vec()))
        }
    }
}

/// Turns line feeds into what a raw terminal needs to begin a new line.
pub(crate) fn to_screen(bytes: &[u8]) -> Vec<u8> {
    let mut screen = Vec::with_capacity(bytes.len());
    for byte in bytes {
        if *byte == b'\n' {
            screen.push(b'\r');
        }
        screen.push(*byte);
    }
    screen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types `keys` and expects what is shown and what the program gets.
    fn check(keys: &str, screen: &str, given: &[Typed]) {
        let mut editor = LineEditor::default();
        let (mut shown, mut got) = (String::new(), Vec::new());
        for typed in editor.typed(keys.as_bytes()) {
            match typed {
                Typed::Echo(bytes) => shown.push_str(&String::from_utf8_lossy(&bytes)),
                other => got.push(other),
            }
        }
        assert_eq!(
            (shown.as_str(), got.as_slice()),
            (screen, given),
            "{keys:?}"
        );
    }

    fn line(text: &str) -> Typed {
        Typed::Line(text.as_bytes().to_vec())
    }

    #[test]
    fn a_line_is_shown_while_it_is_typed_and_given_as_a_whole() {
        check("ls -l\r", "ls -l\n", &[line("ls -l\n")]);
        check("a\nb\r", "a\nb\n", &[line("a\n"), line("b\n")]);
        check("half", "half", &[]);
        check("é\t1\r", "é\t1\n", &[line("é\t1\n")]);
        check("\x01\r", "^A\n", &[line("\x01\n")]);
    }

    #[test]
    fn a_line_can_be_edited() {
        check("ax\x7fb\r", "ax\x08 \x08b\n", &[line("ab\n")]);
        check("é\x08x\r", "é\x08 \x08x\n", &[line("x\n")]);
        check("\x7f\r", "\n", &[line("\n")]);
        check("\x01\x7fx\r", "^A\x08 \x08\x08 \x08x\n", &[line("x\n")]);
        let rubbed = RUB_OUT.repeat(2);
        let rubbed = String::from_utf8_lossy(&rubbed).into_owned();
        check("ab\x15c\r", &format!("ab{rubbed}c\n"), &[line("c\n")]);
        check("a bc\x17d\r", &format!("a bc{rubbed}d\n"), &[line("a d\n")]);
        check("a b \x17\r", &format!("a b {rubbed}\n"), &[line("a \n")]);
    }

    #[test]
    fn keys_that_move_are_dropped() {
        check(
            "a\x1b[Ab\x1b[1;5Cc\x1bOHd\x1bxe\r",
            "abcde\n",
            &[line("abcde\n")],
        );
    }

    #[test]
    fn some_keys_mean_something() {
        check("\x04", "", &[Typed::EndOfInput]);
        check("ab\x04", "ab", &[line("ab")]);
        check("ab\x03", "ab^C\n", &[Typed::Interrupt { had_line: true }]);
        check("\x03", "^C\n", &[Typed::Interrupt { had_line: false }]);
        check("x\x1c", "x^\\\n", &[Typed::Quit]);
        check("x\x1ay\r", "x^Zy\n", &[line("y\n")]);
        check(
            "x\x03y\r",
            "x^C\ny\n",
            &[Typed::Interrupt { had_line: true }, line("y\n")],
        );
    }

    #[test]
    fn a_line_has_a_longest_length() {
        let mut editor = LineEditor::default();
        editor.typed(&vec![b'x'; LINE_BYTES_MAX]);
        assert_eq!(editor.typed(b"y"), [Typed::Echo(BELL.to_vec())]);
        let mut expected = vec![b'x'; LINE_BYTES_MAX];
        expected.push(b'\n');
        assert_eq!(editor.typed(b"\r")[1], Typed::Line(expected));
    }

    #[test]
    fn line_feeds_begin_a_new_line_on_a_raw_terminal() {
        assert_eq!(to_screen(b"a\nb\r\n"), b"a\r\nb\r\r\n");
    }
}
