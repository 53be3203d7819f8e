//! Commands: one instance, run once to its end.

use crate::engine::{Place, Places};
use crate::instance::{End, Ending, Life, Verdict};
use crate::pools::Pools;
use crate::runtime::StartError;
use crate::spec::{ExitCause, OnStop};
use crate::store::Container;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::{Error, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// A program that ends badly so soon after it was refused memory did so for want of it.
const OUT_OF_MEMORY_WINDOW: Duration = Duration::from_secs(1);

/// Starts the container's command on the guest threads.
pub(crate) fn start(
    container: Arc<Container>,
    pools: &Pools,
    places: &Places,
) -> Result<Arc<Life>, StartError> {
    if container.spec.program.inner().command().is_none() {
        let digest = container.spec.program.digest().to_owned();
        return Err(StartError::NoCommand { digest });
    }
    let needs = container.spec.program.inner().needs();
    let place = places.take(needs).map_err(StartError::Full)?;
    let ending = match (container.is_told(), container.spec.on_stop) {
        (true, _) | (false, OnStop::Grace) => Ending::Drain,
        (false, OnStop::AtOnce) => Ending::End,
    };
    let life = Life::new(&container, ending);
    let end = End::of(&life);
    life.spawn(pools, async move {
        let verdict = run(&container, place).await;
        end.say(verdict);
    });
    Ok(life)
}

/// How the engine gave control back.
enum Outcome {
    /// `run` returned.
    Returned(Result<(), ()>),
    /// The guest ended itself, or was ended by a trap.
    Interrupted(Error),
    /// There never was an instance.
    NotStarted(Error),
}

/// Runs the program in its `place`, which it has no longer than its memory.
async fn run(container: &Arc<Container>, place: Place) -> Verdict {
    let pre = container
        .spec
        .program
        .inner()
        .command()
        .expect("a container without a command is refused at its start");
    let mut store = container.new_store(pre.engine());
    let outcome = match pre.instantiate_async(&mut store).await {
        Ok(command) => match command.wasi_cli_run().call_run(&mut store).await {
            Ok(result) => Outcome::Returned(result),
            Err(error) => Outcome::Interrupted(error),
        },
        Err(error) if error.is::<I32Exit>() || error.is::<Trap>() => Outcome::Interrupted(error),
        Err(error) => Outcome::NotStarted(error),
    };
    let refused_at = store.data().refused_memory_at();
    let verdict = judge_outcome(outcome, refused_at);
    let outputs = store.data_mut().open_outputs().clone();
    drop(store);
    drop(place);
    if let ExitCause::Trapped { message } = &verdict.cause {
        outputs.stderr.print(message);
    }
    outputs.drained().await;
    verdict
}

fn judge_outcome(outcome: Outcome, refused_memory_at: Option<Instant>) -> Verdict {
    let verdict = match outcome {
        Outcome::Returned(Ok(())) => Verdict::exited(0),
        Outcome::Returned(Err(())) => Verdict::exited(1),
        Outcome::Interrupted(error) => match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(code)) => Verdict::exited(*code),
            None => Verdict {
                code: ExitCause::TRAPPED,
                cause: ExitCause::Trapped {
                    message: trap_text(&error),
                },
            },
        },
        Outcome::NotStarted(error) => Verdict {
            code: ExitCause::FAILED_TO_START,
            cause: ExitCause::FailedToStart {
                message: format!("{error:#}"),
            },
        },
    };
    let lately = refused_memory_at.is_some_and(|at| at.elapsed() <= OUT_OF_MEMORY_WINDOW);
    if verdict.code != 0 && lately {
        return Verdict {
            code: ExitCause::KILLED,
            cause: ExitCause::OutOfMemory,
        };
    }
    verdict
}

/// Writes a trap for people: what happened first, then where.
pub(crate) fn trap_text(error: &Error) -> String {
    let mut text = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        write!(text, "\n{backtrace}").expect("writing to a string cannot fail");
    }
    text.truncate(text.trim_end().len());
    text
}
