//! Gives the connections and datagrams of many addresses and ports to a few sockets, in the kernel.
//!
//! On Linux the kernel asks a program of type `sk_lookup` before it looks for who listens.
//! [`SocketLookup::attach`] assembles one and attaches it to the caller's network namespace; a table says
//! which address and port leads to which socket. In the ranges it is given, nothing else is reached: who
//! asks for an address or port that is not in the table is refused, also where a program of this machine
//! listens on all addresses.
//!
//! Where no program may be loaded, [`SocketRules::attach`] makes a table of nftables that does the same: it
//! takes the rights of `CAP_NET_ADMIN` in the network's own namespace of users, and no more.
//!
//! The crate owns no task and no thread. The kernel detaches the program, and removes the rules, when the
//! process ends, however it ends. Elsewhere than on Linux the crate is empty.

#[cfg(target_os = "linux")]
mod lookup;

#[cfg(target_os = "linux")]
mod netfilter;

#[cfg(target_os = "linux")]
mod options;

#[cfg(target_os = "linux")]
mod program;

#[cfg(target_os = "linux")]
mod rules;

#[cfg(target_os = "linux")]
mod syscall;

#[cfg(target_os = "linux")]
pub use lookup::{Failures, LookupError, RANGES_MAX, SocketLookup, Transport};

#[cfg(target_os = "linux")]
pub use rules::{RulesError, SocketRules};

#[cfg(target_os = "linux")]
pub use options::{make_transparent, shortest_round_trip};
