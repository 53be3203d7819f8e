//! Runs the syntax tree.

use std::pin::Pin;
use std::rc::Rc;

use super::builtins;
use super::redirect::Refused;
use super::syntax::{Arm, Command, Item, Join, Kind, List, Pipeline, Redirect, Word};
use super::variables::Variables;
use super::{Flow, Ran, Shell};
use crate::applet::{self, Context, DEPTH_MAX, PROGRAM_LEVELS};
use crate::pattern;
use crate::reactor::{self, Boxed};
use crate::stream::Stream;

/// After so many commands others are let go on: background jobs, the terminal's Ctrl-C.
const STEPS_MAX: u32 = 64;

/// Running a command, which may nest.
type Running<'a> = Pin<Box<dyn Future<Output = Ran> + 'a>>;

impl Shell {
    /// Runs commands one after another.
    pub(super) async fn run_list(&mut self, list: &[Item]) -> Ran {
        let mut status = 0;
        for item in list {
            status = self.run_item(item).await?;
        }
        Ok(status)
    }

    /// Runs commands of a subshell and returns its code.
    pub(super) async fn run_apart(&mut self, list: &[Item]) -> i32 {
        let running: Running<'_> = Box::pin(self.run_list(list));
        let ran = running.await;
        self.finish(ran).await
    }

    async fn run_item(&mut self, item: &Item) -> Ran {
        if self.switches.noexec {
            return Ok(self.status);
        }
        if item.background {
            self.start_job(item);
            self.status = 0;
            return Ok(0);
        }
        let mut status = self.run_pipeline(&item.first, item.rest.is_empty()).await?;
        for (index, (join, pipeline)) in item.rest.iter().enumerate() {
            if (*join == Join::And) == (status == 0) {
                let last = index + 1 == item.rest.len();
                status = self.run_pipeline(pipeline, last).await?;
            }
        }
        Ok(status)
    }

    /// Starts a job that runs while the shell goes on.
    fn start_job(&mut self, item: &Item) {
        let mut shell = self.subshell();
        shell.descriptors.set(0, Stream::null());
        let mut apart = item.clone();
        apart.background = false;
        let title = item.title.clone();
        let running: Boxed<i32> = Box::pin(async move { shell.run_apart(&[apart]).await });
        let task = reactor::spawn(title, running);
        self.last_job = Some(task.id);
        self.jobs.push(task);
    }

    /// Runs a pipeline. `last` says that it is not the left side of `&&` or `||`, so that `set -e` applies.
    async fn run_pipeline(&mut self, pipeline: &Pipeline, last: bool) -> Ran {
        let exempt = pipeline.negated || !last;
        self.conditions += u32::from(exempt);
        let ran = match pipeline.commands.as_slice() {
            [command] => self.run_command(command).await,
            commands => Ok(self.run_stages(commands).await),
        };
        self.conditions -= u32::from(exempt);
        let mut status = ran?;
        if pipeline.negated {
            status = i32::from(status == 0);
        }
        self.status = status;
        let simple = !matches!(
            pipeline.commands.as_slice(),
            [command] if is_compound(&command.kind)
        );
        if status != 0 && self.switches.errexit && !exempt && simple && self.conditions == 0 {
            return Err(Flow::Exit(status));
        }
        Ok(status)
    }

    /// Runs the commands of a pipeline at once, each in a subshell.
    async fn run_stages(&mut self, commands: &[Rc<Command>]) -> i32 {
        let mut input = None;
        let mut stages: Vec<Boxed<i32>> = Vec::new();
        for (index, command) in commands.iter().enumerate() {
            let mut shell = self.subshell();
            if let Some(reader) = input.take() {
                shell.descriptors.set(0, reader);
            }
            if index + 1 < commands.len() {
                let (reader, writer) = Stream::pipe();
                shell.descriptors.set(1, writer);
                input = Some(reader);
            }
            let command = Rc::clone(command);
            stages.push(Box::pin(async move {
                let ran = shell.run_command(&command).await;
                shell.finish(ran).await
            }));
        }
        let codes = reactor::all(stages).await;
        let failed = codes.iter().rev().copied().find(|code| *code != 0);
        match failed {
            Some(code) if self.switches.pipefail => code,
            _ => codes.last().copied().unwrap_or_default(),
        }
    }

    /// Runs a command with its redirections.
    pub(super) fn run_command<'a>(&'a mut self, command: &'a Command) -> Running<'a> {
        Box::pin(async move {
            self.steps += 1;
            if self.steps >= STEPS_MAX {
                self.steps = 0;
                reactor::yield_now().await;
            }
            self.line = command.line;
            if self.depth >= DEPTH_MAX {
                return Err(self.fail("commands are nested too deep").await);
            }
            self.depth += 1;
            let ran = match &command.kind {
                Kind::Simple { assignments, words } => {
                    self.simple(assignments, words, &command.redirects).await
                }
                kind if command.redirects.is_empty() => self.compound(kind).await,
                kind => self.redirected_compound(kind, &command.redirects).await,
            };
            self.depth -= 1;
            ran
        })
    }

    async fn redirected_compound(&mut self, kind: &Kind, redirects: &[Redirect]) -> Ran {
        let descriptors = match self.redirected(redirects).await {
            Ok(descriptors) => descriptors,
            Err(Refused::Told) => return Ok(1),
            Err(Refused::Flow(flow)) => return Err(flow),
        };
        let before = std::mem::replace(&mut self.descriptors, descriptors);
        let ran = self.compound(kind).await;
        self.descriptors = before;
        ran
    }

    async fn compound(&mut self, kind: &Kind) -> Ran {
        match kind {
            Kind::Simple { .. } => Ok(0),
            Kind::Group(list) => self.run_list(list).await,
            Kind::Subshell(list) => Ok(self.subshell().run_apart(list).await),
            Kind::If {
                branches,
                otherwise,
            } => self.conditional(branches, otherwise.as_ref()).await,
            Kind::For { name, words, body } => self.for_loop(name, words.as_deref(), body).await,
            Kind::While {
                until,
                condition,
                body,
            } => self.while_loop(*until, condition, body).await,
            Kind::Case { word, arms } => self.case(word, arms).await,
            Kind::Function { name, body } => {
                Rc::make_mut(&mut self.functions).insert(name.clone(), Rc::clone(body));
                Ok(0)
            }
            Kind::Condition(words) => self.condition(words).await,
            Kind::Arithmetic(word) => Ok(i32::from(self.compute(word).await? == 0)),
        }
    }

    /// Runs commands whose failure is an answer, not an error.
    async fn run_condition(&mut self, list: &List) -> Result<bool, Flow> {
        self.conditions += 1;
        let ran = self.run_list(list).await;
        self.conditions -= 1;
        Ok(ran? == 0)
    }

    async fn conditional(&mut self, branches: &[(List, List)], otherwise: Option<&List>) -> Ran {
        for (condition, body) in branches {
            if self.run_condition(condition).await? {
                return self.run_list(body).await;
            }
        }
        match otherwise {
            Some(list) => self.run_list(list).await,
            None => Ok(0),
        }
    }

    async fn for_loop(&mut self, name: &str, words: Option<&[Word]>, body: &List) -> Ran {
        let values = match words {
            Some(words) => self.expand_words(words).await?,
            None => self.positional.to_vec(),
        };
        let mut status = 0;
        self.loops += 1;
        for value in values {
            if let Err(flow) = self.assign(name, value).await {
                self.loops -= 1;
                return Err(flow);
            }
            let ran = self.run_list(body).await;
            match self.after_round(ran) {
                Round::Next(code) => status = code,
                Round::Done(ran) => {
                    self.loops -= 1;
                    return ran;
                }
            }
        }
        self.loops -= 1;
        Ok(status)
    }

    async fn while_loop(&mut self, until: bool, condition: &List, body: &List) -> Ran {
        let mut status = 0;
        self.loops += 1;
        let ran = loop {
            match self.run_condition(condition).await {
                Ok(holds) if holds == until => break Ok(status),
                Ok(_) => {}
                Err(flow) => match self.after_round(Err(flow)) {
                    Round::Next(_) => continue,
                    Round::Done(ran) => break ran,
                },
            }
            let ran = self.run_list(body).await;
            match self.after_round(ran) {
                Round::Next(code) => status = code,
                Round::Done(ran) => break ran,
            }
        };
        self.loops -= 1;
        ran
    }

    /// Decides what a round of a loop means for the loop.
    fn after_round(&self, ran: Ran) -> Round {
        match ran {
            Ok(code) => Round::Next(code),
            Err(Flow::Continue(0 | 1)) => Round::Next(0),
            Err(Flow::Break(0 | 1)) => Round::Done(Ok(0)),
            Err(Flow::Continue(levels)) => Round::Done(Err(Flow::Continue(levels - 1))),
            Err(Flow::Break(levels)) => Round::Done(Err(Flow::Break(levels - 1))),
            Err(flow @ (Flow::Exit(_) | Flow::Return(_) | Flow::Fatal(_))) => {
                Round::Done(Err(flow))
            }
        }
    }

    async fn case(&mut self, word: &Word, arms: &[Arm]) -> Ran {
        let text = self.expand_text(word).await?;
        let mut falls = false;
        let mut status = 0;
        for arm in arms {
            let mut matched = falls;
            for word in &arm.patterns {
                if !matched {
                    let pattern = self.expand_pattern(word).await?;
                    matched = pattern::matches(&pattern, &text);
                }
            }
            if matched {
                status = self.run_list(&arm.body).await?;
                if !arm.falls_through {
                    return Ok(status);
                }
                falls = true;
            }
        }
        Ok(status)
    }

    async fn simple(
        &mut self,
        assignments: &[(String, Word)],
        words: &[Word],
        redirects: &[Redirect],
    ) -> Ran {
        self.substituted = None;
        let words = self.expand_words(words).await?;
        let mut values = Vec::new();
        for (name, word) in assignments {
            values.push((name.as_str(), self.expand_text(word).await?));
            if words.is_empty() {
                // Later ones see earlier ones.
                if let Some((name, value)) = values.last() {
                    self.assign(name, value.clone()).await?;
                }
            }
        }
        if self.switches.xtrace {
            self.trace(&values, &words).await;
        }
        let special = words.first().is_some_and(|word| builtins::is_special(word));
        let descriptors = match self.redirected(redirects).await {
            Ok(descriptors) => descriptors,
            Err(Refused::Told) if special => return Err(Flow::Fatal(2)),
            Err(Refused::Told) => return Ok(1),
            Err(Refused::Flow(flow)) => return Err(flow),
        };
        let Some(name) = words.first() else {
            return Ok(self.substituted.unwrap_or(0));
        };
        if name == "exec" {
            return self.exec(&words[1..], descriptors).await;
        }
        let saved = (!special && !values.is_empty()).then(|| self.variables.snapshot());
        for (name, value) in values {
            self.assign(name, value).await?;
            if !special {
                self.variables.export(name, true);
            }
        }
        let before = std::mem::replace(&mut self.descriptors, descriptors);
        let ran = self.run_words(words).await;
        self.descriptors = before;
        if let Some(saved) = saved {
            self.restore(saved, assignments);
        }
        ran
    }

    /// Takes back the assignments that were for one command.
    fn restore(&mut self, saved: Variables, assignments: &[(String, Word)]) {
        let names: Vec<&str> = assignments.iter().map(|(name, _)| name.as_str()).collect();
        self.variables.take_back(&saved, &names);
    }

    async fn trace(&self, values: &[(&str, String)], words: &[String]) {
        let prefix = self.variables.get("PS4").unwrap_or("+ ");
        let assigned = values
            .iter()
            .map(|(name, value)| format!("{name}={}", builtins::quote(value)));
        let words = words.iter().map(|word| builtins::quote(word));
        let line: Vec<String> = assigned.chain(words).collect();
        if let Ok(errors) = self.descriptors.get(2) {
            let text = format!("{prefix}{}\n", line.join(" "));
            let _ = errors.write(text.as_bytes()).await;
        }
    }

    /// Runs a function, a builtin or a program.
    pub(super) fn run_words(&mut self, words: Vec<String>) -> Running<'_> {
        Box::pin(async move {
            let name = words.first().cloned().unwrap_or_default();
            if !builtins::is_special(&name)
                && let Some(body) = self.functions.get(&name).map(Rc::clone)
            {
                return self.call(&body, words).await;
            }
            match builtins::run(self, &words).await {
                Some(ran) => ran,
                // Told here, as a condition that merely failed might be tried for ever.
                None if self.depth + PROGRAM_LEVELS > DEPTH_MAX => {
                    Err(self.fail("commands are nested too deep").await)
                }
                None => Ok(self.run_program(words).await),
            }
        })
    }

    /// Runs a program that is no part of the shell.
    pub(super) async fn run_program(&mut self, words: Vec<String>) -> i32 {
        let mut context = Context::new(
            words,
            self.descriptors.clone(),
            self.folder.clone(),
            self.variables.environment(),
            self.depth + PROGRAM_LEVELS,
        );
        // Exported or not.
        context.search = self.variables.get("PATH").map(str::to_owned);
        applet::run(context).await
    }

    async fn call(&mut self, body: &Command, words: Vec<String>) -> Ran {
        let positional = Rc::new(words.into_iter().skip(1).collect());
        let before = std::mem::replace(&mut self.positional, positional);
        let loops = std::mem::take(&mut self.loops);
        self.frames += 1;
        self.variables.enter();
        let ran = self.run_command(body).await;
        self.variables.leave();
        self.frames -= 1;
        self.loops = loops;
        self.positional = before;
        match ran {
            Err(Flow::Return(code)) => Ok(code),
            ran => ran,
        }
    }
}

/// What follows a round of a loop.
enum Round {
    Next(i32),
    Done(Ran),
}

/// Whether `set -e` looks at what is inside a command instead of at itself.
fn is_compound(kind: &Kind) -> bool {
    match kind {
        Kind::Simple { .. } | Kind::Subshell(_) | Kind::Condition(_) | Kind::Arithmetic(_) => false,
        Kind::Group(_)
        | Kind::If { .. }
        | Kind::For { .. }
        | Kind::While { .. }
        | Kind::Case { .. }
        | Kind::Function { .. } => true,
    }
}
