//! `jobs`, `wait`, `kill`, `trap`.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::super::{Flow, Ran, Shell};
use super::quote;
use crate::reactor::{self, Task};

/// Signals by name and number.
const SIGNALS: &[(&str, i32)] = &[
    ("EXIT", 0),
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("WINCH", 28),
];

/// Finds a signal by its name, with or without `SIG`, or its number.
fn signal(text: &str) -> Option<(&'static str, i32)> {
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    SIGNALS
        .iter()
        .copied()
        .find(|(known, number)| *known == name || number.to_string() == name)
}

impl Shell {
    pub(super) async fn list_jobs(&mut self) -> Ran {
        let mut lines = String::new();
        for (index, job) in self.jobs.iter().enumerate() {
            let state = match job.outcome() {
                None => "Running".to_owned(),
                Some(0) => "Done".to_owned(),
                Some(code) => format!("Done({code})"),
            };
            lines.push_str(&format!("[{}]  {state:<10} {}\n", index + 1, job.title));
        }
        self.jobs.retain(|job| job.outcome().is_none());
        self.print(&lines).await
    }

    pub(super) async fn wait(&mut self, arguments: &[String]) -> Ran {
        let mut status = 0;
        if arguments.is_empty() {
            for job in std::mem::take(&mut self.jobs) {
                reactor::wait_until_some(|| job.outcome()).await;
            }
            return Ok(0);
        }
        for word in arguments {
            let Some(job) = self.job(word) else {
                status = 127;
                continue;
            };
            status = reactor::wait_until_some(|| job.outcome()).await;
            self.jobs.retain(|other| other.id != job.id);
        }
        Ok(status)
    }

    /// The job that a word names: its number, or `%` and its place.
    fn job(&self, word: &str) -> Option<Rc<Task>> {
        match word.strip_prefix('%') {
            Some("%" | "+" | "") => self.jobs.last().cloned(),
            Some(place) => {
                let index = place.parse::<usize>().ok()?.checked_sub(1)?;
                self.jobs.get(index).cloned()
            }
            None => {
                let id: u32 = word.parse().ok()?;
                let known = self.jobs.iter().find(|job| job.id == id).cloned();
                known.or_else(|| reactor::tasks().into_iter().find(|task| task.id == id))
            }
        }
    }

    /// `kill`: of this instance only, as nothing else can be reached from within.
    pub(super) async fn kill(&mut self, arguments: &[String]) -> Ran {
        let mut words = arguments.iter().peekable();
        let mut sent = ("TERM", 15);
        if let Some(word) = words.next_if(|word| word.len() > 1 && word.starts_with('-')) {
            let name = match word.as_str() {
                "-l" => {
                    let names: Vec<&str> = SIGNALS.iter().skip(1).map(|(name, _)| *name).collect();
                    return self.print(&format!("{}\n", names.join(" "))).await;
                }
                "-s" | "-n" => words.next().cloned().unwrap_or_default(),
                word => word[1..].to_owned(),
            };
            match signal(&name) {
                Some(known) => sent = known,
                None => {
                    return self
                        .refuse("kill", &format!("unknown signal `{name}`"))
                        .await;
                }
            }
        }
        let mut status = 0;
        for word in words {
            if let Some(job) = self.job(word) {
                // Signal 0 only asks whether it is there.
                if job.outcome().is_some() && sent.1 == 0 {
                    status = 1;
                } else if sent.1 != 0 {
                    job.kill();
                }
            } else if word == "1" {
                self.signalled(sent).await?;
            } else {
                let text = format!("({word}) - No such process");
                status = self.refuse("kill", &text).await?;
            }
        }
        Ok(status)
    }

    /// A signal this shell sends to itself: number 1 is what this instance runs, in its own container as
    /// everywhere.
    async fn signalled(&mut self, (name, number): (&str, i32)) -> Result<(), Flow> {
        if number == 0 {
            return Ok(());
        }
        match self.traps.get(name).cloned() {
            Some(text) => {
                let status = self.status;
                let running: std::pin::Pin<Box<dyn Future<Output = Ran> + '_>> =
                    Box::pin(self.eval_trap(text));
                running.await?;
                self.status = status;
                Ok(())
            }
            None if matches!(name, "CHLD" | "CONT" | "WINCH") => Ok(()),
            None => Err(Flow::Exit(128 + number)),
        }
    }

    async fn eval_trap(&mut self, text: String) -> Ran {
        self.eval(&text).await
    }

    pub(super) async fn trap(&mut self, arguments: &[String]) -> Ran {
        let arguments = match arguments.first().map(String::as_str) {
            Some("--") => &arguments[1..],
            _ => arguments,
        };
        let (action, names) = match arguments {
            [] => {
                let lines = listing(&self.traps);
                return self.print(&lines).await;
            }
            [first] if first == "-l" || first == "-p" => {
                let lines = listing(&self.traps);
                return self.print(&lines).await;
            }
            // A number first, or nothing but a name, means to reset.
            [only] => ("-", std::slice::from_ref(only)),
            [first, ..] if first.parse::<u32>().is_ok() => ("-", arguments),
            [action, names @ ..] => (action.as_str(), names),
        };
        let traps = Rc::make_mut(&mut self.traps);
        for word in names {
            let Some((name, _)) = signal(word) else {
                let text = format!("unknown signal `{word}`");
                return self.refuse("trap", &text).await;
            };
            if action == "-" {
                traps.remove(name);
            } else {
                traps.insert(name.to_owned(), action.to_owned());
            }
        }
        Ok(0)
    }
}

fn listing(traps: &BTreeMap<String, String>) -> String {
    traps
        .iter()
        .map(|(name, text)| format!("trap -- {} {name}\n", quote(text)))
        .collect()
}
