//! The programs, by what they are about.

/// Lists programs with the functions that run them.
macro_rules! applets {
    ($($name:literal => $function:path),* $(,)?) => {
        /// The programs of this module.
        pub(crate) const APPLETS: &[$crate::applet::Applet] = &[
            $(($name, |context| Box::pin($function(context)))),*
        ];
    };
}

pub(crate) mod archive;
pub(crate) mod condition;
pub(crate) mod escapes;
pub(crate) mod listing;
pub(crate) mod output;
pub(crate) mod place;
pub(crate) mod reading;
mod real;
pub(crate) mod regular;
pub(crate) mod time;

use crate::applet::Applet;

/// All programs.
pub(crate) const ALL: &[&[Applet]] = &[
    &[("sh", crate::shell::sh), ("ash", crate::shell::sh), ("bash", crate::shell::sh)],
    archive::APPLETS,
    condition::APPLETS,
    listing::APPLETS,
    output::APPLETS,
    place::APPLETS,
    reading::APPLETS,
    time::APPLETS,
];
