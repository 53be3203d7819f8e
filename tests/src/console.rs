//! Ctrl-C for a child process on Windows, where it is an event of a console and not a signal of a process.
//!
//! A child is started with a console of its own. To press a key there, the test's process leaves its
//! own console for a moment. What other tests print to a console meanwhile is lost; what goes to a file
//! or a pipe is not.

use std::io;
use std::sync::{Mutex, PoisonError};

/// `CREATE_NO_WINDOW` of the Windows API: the child gets a console that nobody sees.
pub(crate) const OWN_CONSOLE: u32 = 0x0800_0000;

const CTRL_C_EVENT: u32 = 0;
const ATTACH_PARENT_PROCESS: u32 = u32::MAX;
/// `STD_INPUT_HANDLE`, `STD_OUTPUT_HANDLE` and `STD_ERROR_HANDLE`.
const STANDARD: [u32; 3] = [-10_i32 as u32, -11_i32 as u32, -12_i32 as u32];

type Handle = *mut std::ffi::c_void;
type Handler = unsafe extern "system" fn(u32) -> i32;

#[link(name = "kernel32")]
#[expect(unsafe_code, reason = "the standard library has no calls for consoles")]
unsafe extern "system" {
    fn AttachConsole(process: u32) -> i32;
    fn FreeConsole() -> i32;
    fn GenerateConsoleCtrlEvent(event: u32, group: u32) -> i32;
    fn GetConsoleMode(handle: Handle, mode: *mut u32) -> i32;
    fn GetStdHandle(which: u32) -> Handle;
    fn SetConsoleCtrlHandler(handler: Option<Handler>, add: i32) -> i32;
    fn SetStdHandle(which: u32, handle: Handle) -> i32;
}

/// Presses Ctrl-C on the console of a process that was started with [`OWN_CONSOLE`].
///
/// From then on Ctrl-C on the test's own console does not end it; Ctrl-Break does.
///
/// # Errors
///
/// Fails when the process is gone or has no console.
#[expect(unsafe_code, reason = "the standard library has no calls for consoles")]
pub(crate) fn press_ctrl_c(process: u32) -> io::Result<()> {
    /// A process has one console: two tests take turns.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let done = |result: i32| {
        (result != 0)
            .then_some(())
            .ok_or_else(io::Error::last_os_error)
    };
    let redirected = redirected();
    // SAFETY: the handler is a function without state that lives as long as the process; the other calls
    // take numbers, and handles of this process that nobody closes.
    unsafe {
        // The event reaches every process of the console, so this one as well, perhaps later. A handler
        // is not inherited, as ignoring Ctrl-C would be.
        done(SetConsoleCtrlHandler(Some(stay), 1))?;
        // It fails when there is none, which is as good.
        FreeConsole();
        let pressed = done(AttachConsole(process))
            .and_then(|()| done(GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0)));
        FreeConsole();
        // Whoever started the tests may have had none.
        AttachConsole(ATTACH_PARENT_PROCESS);
        for (which, handle) in redirected {
            SetStdHandle(which, handle);
        }
        pressed
    }
}

/// Returns the standard handles that lead to no console: they stay what they are.
#[expect(unsafe_code, reason = "the standard library has no calls for consoles")]
fn redirected() -> Vec<(u32, Handle)> {
    let all = STANDARD.into_iter().map(|which| {
        // SAFETY: the call takes a number.
        (which, unsafe { GetStdHandle(which) })
    });
    all.filter(|&(_, handle)| {
        let mut mode = 0;
        // SAFETY: `mode` is a live number that the call may write; a handle that is none makes it fail.
        unsafe { GetConsoleMode(handle, &raw mut mode) == 0 }
    })
    .collect()
}

/// Says that Ctrl-C was dealt with, and leaves every other event to the system.
#[expect(unsafe_code, reason = "it is called by the system")]
unsafe extern "system" fn stay(event: u32) -> i32 {
    i32::from(event == CTRL_C_EVENT)
}
