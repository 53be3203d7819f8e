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

mod archive;
mod awk;
mod blocks;
mod compare;
pub(crate) mod condition;
mod datagrams;
mod digest;
pub(crate) mod escapes;
mod expr;
mod find;
mod grep;
mod gzip;
mod listing;
mod mounts;
mod names;
mod network;
mod output;
pub(crate) mod owners;
mod place;
mod reading;
mod real;
pub(crate) mod regular;
mod sed;
mod text;
mod time;
mod tree;
mod watch;
mod web;

use crate::applet::Applet;

/// All programs.
pub(crate) const ALL: &[&[Applet]] = &[
    &[
        ("sh", crate::shell::sh),
        ("ash", crate::shell::sh),
        ("bash", crate::shell::sh),
    ],
    archive::APPLETS,
    awk::APPLETS,
    blocks::APPLETS,
    compare::APPLETS,
    condition::APPLETS,
    digest::APPLETS,
    expr::APPLETS,
    find::APPLETS,
    grep::APPLETS,
    gzip::APPLETS,
    listing::APPLETS,
    mounts::APPLETS,
    names::APPLETS,
    network::APPLETS,
    output::APPLETS,
    owners::APPLETS,
    place::APPLETS,
    reading::APPLETS,
    sed::APPLETS,
    text::APPLETS,
    time::APPLETS,
    tree::APPLETS,
    watch::APPLETS,
    web::APPLETS,
];
