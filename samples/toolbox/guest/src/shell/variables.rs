//! The variables of a shell.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::applet::Environment;

/// A variable.
#[derive(Clone, Default)]
struct Variable {
    /// `None` when it was exported or declared and never set.
    value: Option<String>,
    exported: bool,
    readonly: bool,
}

/// All variables; a copy costs nothing until it is changed.
#[derive(Clone, Default)]
pub(crate) struct Variables {
    all: Rc<BTreeMap<String, Variable>>,
    /// What `local` hid, for each function that runs.
    hidden: Vec<BTreeMap<String, Option<Variable>>>,
    environment: RefCell<Option<Rc<Environment>>>,
}

/// A variable that must not be changed.
#[derive(Debug)]
pub(crate) struct ReadOnly(pub(crate) String);

impl std::fmt::Display for ReadOnly {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: is read only", self.0)
    }
}

impl Variables {
    /// The variables that an environment gives.
    pub(crate) fn of_environment(environment: &Environment) -> Self {
        let all = environment.iter().map(|(name, value)| {
            let variable = Variable {
                value: Some(value.clone()),
                exported: true,
                readonly: false,
            };
            (name.clone(), variable)
        });
        Self {
            all: Rc::new(all.collect()),
            ..Self::default()
        }
    }

    /// What a program is given.
    pub(crate) fn environment(&self) -> Rc<Environment> {
        let exported = || {
            let set = self.all.iter().filter(|(_, variable)| variable.exported);
            let set =
                set.filter_map(|(name, variable)| Some((name.clone(), variable.value.clone()?)));
            Rc::new(set.collect::<Environment>())
        };
        Rc::clone(self.environment.borrow_mut().get_or_insert_with(exported))
    }

    /// The value of a variable.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all.get(name)?.value.as_deref()
    }

    /// Sets a variable.
    pub(crate) fn set(&mut self, name: &str, value: String) -> Result<(), ReadOnly> {
        let variable = self.variable(name)?;
        variable.value = Some(value);
        if variable.exported {
            self.environment.take();
        }
        Ok(())
    }

    /// Sets a variable of the shell's own, read only or not.
    pub(crate) fn put(&mut self, name: &str, value: String) {
        let all = Rc::make_mut(&mut self.all);
        all.entry(name.to_owned()).or_default().value = Some(value);
        self.environment.take();
    }

    /// Sets a variable unless the environment did.
    pub(crate) fn set_default(&mut self, name: &str, value: &str) {
        if self.get(name).is_none() {
            self.put(name, value.to_owned());
        }
    }

    /// Removes a variable.
    pub(crate) fn unset(&mut self, name: &str) -> Result<(), ReadOnly> {
        self.variable(name)?;
        Rc::make_mut(&mut self.all).remove(name);
        self.environment.take();
        Ok(())
    }

    /// Gives a variable to programs from now on, or no longer.
    pub(crate) fn export(&mut self, name: &str, exported: bool) {
        let all = Rc::make_mut(&mut self.all);
        all.entry(name.to_owned()).or_default().exported = exported;
        self.environment.take();
    }

    /// Keeps a variable from being changed.
    pub(crate) fn protect(&mut self, name: &str) {
        let all = Rc::make_mut(&mut self.all);
        all.entry(name.to_owned()).or_default().readonly = true;
    }

    /// Begins a function.
    pub(crate) fn enter(&mut self) {
        self.hidden.push(BTreeMap::new());
    }

    /// Ends the function, and what was local to it.
    pub(crate) fn leave(&mut self) {
        let Some(hidden) = self.hidden.pop() else {
            return;
        };
        if hidden.is_empty() {
            return;
        }
        let all = Rc::make_mut(&mut self.all);
        for (name, before) in hidden {
            match before {
                Some(variable) => all.insert(name, variable),
                None => all.remove(&name),
            };
        }
        self.environment.take();
    }

    /// How many functions run.
    pub(crate) fn levels(&self) -> usize {
        self.hidden.len()
    }

    /// Makes a variable the function's own.
    pub(crate) fn localize(&mut self, name: &str) {
        let before = self.all.get(name).cloned();
        if let Some(hidden) = self.hidden.last_mut() {
            hidden.entry(name.to_owned()).or_insert(before);
        }
    }

    /// What is set, exported or protected, in the order of the names.
    pub(crate) fn listing(&self, which: Which) -> Vec<(String, Option<String>)> {
        let wanted = self.all.iter().filter(|(_, variable)| match which {
            Which::Set => variable.value.is_some(),
            Which::Exported => variable.exported,
            Which::ReadOnly => variable.readonly,
        });
        wanted
            .map(|(name, variable)| (name.clone(), variable.value.clone()))
            .collect()
    }

    /// All that programs are given, before assignments of one command change it.
    pub(crate) fn snapshot(&self) -> Self {
        self.clone()
    }

    /// Makes some variables what they were before.
    pub(crate) fn take_back(&mut self, before: &Self, names: &[&str]) {
        let all = Rc::make_mut(&mut self.all);
        for name in names {
            match before.all.get(*name) {
                Some(variable) => all.insert((*name).to_owned(), variable.clone()),
                None => all.remove(*name),
            };
        }
        self.environment.take();
    }

    fn variable(&mut self, name: &str) -> Result<&mut Variable, ReadOnly> {
        let all = Rc::make_mut(&mut self.all);
        let variable = all.entry(name.to_owned()).or_default();
        if variable.readonly {
            return Err(ReadOnly(name.to_owned()));
        }
        Ok(variable)
    }
}

/// Which variables are listed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Set,
    Exported,
    ReadOnly,
}
