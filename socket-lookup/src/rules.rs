//! A table of nftables that does what the program does, for whoever may set rules and load no program.
//!
//! What comes for an address and port of the set `served` is given to a transparent socket (`tproxy`) before
//! the kernel looks for who listens; in the ranges all else that asks is refused. Established connections
//! are passed by.
//!
//! The ranges are local by routes already, so neither a mark nor a routing rule is needed. The kernel
//! removes the table with the socket that made it, from Linux 5.12 on; before that it outlives a process that
//! was killed, so its name is claimed by a socket in the abstract namespace, which does end with the process,
//! and whoever makes rules removes tables of ours that nobody claims.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::netfilter::{self, Attributes, Change, Kind, Netfilter};
use crate::{RANGES_MAX, Transport};

mod expressions;

use expressions::{Family, Rule};

/// What names of our tables begin with.
const PREFIX: &str = "coracle_";

/// Changes of one transaction: each is less than 1 KiB, and the kernel takes some 200 KiB at once.
const CHANGES_MAX: usize = 128;

const INPUT: &str = "refuse";
const PREROUTING: &str = "lead";

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
/// The table goes with the socket that made it, and nobody else may change it.
const NFT_TABLE_F_OWNER: u32 = 2;

const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_IN: u32 = 1;
/// Where nft's own documents put transparent proxies: `NF_IP_PRI_MANGLE`.
const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_FILTER: i32 = 0;

const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;

const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;

/// Rules at work in a network namespace. Dropping this removes them: what they led here is refused or
/// reached as it would be without them, and established connections stay.
#[derive(Debug)]
pub struct SocketRules {
    table: String,
    ranges: Vec<IpNet>,
    entries_max: usize,
    state: Mutex<State>,
    _claim: UnixListener,
}

#[derive(Debug)]
struct State {
    netfilter: Netfilter,
    served: HashSet<(Transport, SocketAddr)>,
}

/// Why no rules could be made. In every case nothing of them is left.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// More than [`RANGES_MAX`].
    #[error("there are {count} ranges, and {RANGES_MAX} at most are kept to rules")]
    TooManyRanges {
        /// How many were asked for.
        count: usize,
    },
    /// Another process of this machine has rules for the same range.
    #[error("another process of this machine has the table `{table}`")]
    Taken {
        /// The table's name.
        table: String,
    },
    /// The tables that there are could not be listed, or a stale one not removed.
    #[error("failed to look for stale tables")]
    Stale(#[source] io::Error),
    /// The kernel has no nftables, or not for this user: they need `CAP_NET_ADMIN`.
    #[error("failed to make a table of rules")]
    Table(#[source] io::Error),
}

/// With whom a table goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// With the socket that made it.
    Socket,
    /// With nobody.
    Nobody,
}

impl SocketRules {
    /// Makes an empty table of at most `entries_max` entries in the network namespace of the calling thread.
    /// From here on nothing that is not established is reached in `ranges` but what the table names. The
    /// ranges must be local by a route.
    ///
    /// # Errors
    ///
    /// Fails where the kernel or the user's rights do not allow it.
    pub fn attach(ranges: &[IpNet], entries_max: u32) -> Result<SocketRules, RulesError> {
        let owned = SocketRules::make(ranges, entries_max, Owner::Socket);
        match owned {
            Err(RulesError::Table(error)) if is_unknown(&error) => {
                SocketRules::make(ranges, entries_max, Owner::Nobody)
            }
            made => made,
        }
    }

    fn make(ranges: &[IpNet], entries_max: u32, owner: Owner) -> Result<SocketRules, RulesError> {
        if ranges.len() > RANGES_MAX {
            let count = ranges.len();
            return Err(RulesError::TooManyRanges { count });
        }
        let table = name(ranges);
        let Some(claim) = claim(&table) else {
            return Err(RulesError::Taken { table });
        };
        let mut netfilter = Netfilter::open().map_err(RulesError::Table)?;
        remove_stale(&mut netfilter, &table).map_err(RulesError::Stale)?;
        let rules = SocketRules {
            ranges: ranges.iter().map(IpNet::trunc).collect(),
            entries_max: entries_max as usize,
            state: Mutex::new(State {
                netfilter,
                served: HashSet::new(),
            }),
            _claim: claim,
            table,
        };
        let changes = rules.beginning(owner);
        // What has been made goes with `rules` where the rest of it fails.
        rules.change(&changes).map_err(RulesError::Table)?;
        Ok(rules)
    }

    fn change(&self, changes: &[Change]) -> io::Result<()> {
        let mut state = self.state();
        let mut parts = changes.chunks(CHANGES_MAX);
        parts.try_for_each(|part| state.netfilter.commit(part))
    }

    /// Makes what is served of the listener's family lead to it by TCP, and by UDP to the socket at the
    /// same address that has the port asked for. Both must be transparent (`IP_TRANSPARENT`). Called once
    /// for each family.
    ///
    /// # Errors
    ///
    /// Fails where the kernel has no transparent proxies.
    pub fn lead(&self, listener: SocketAddr) -> io::Result<()> {
        let family = Family::of(listener.ip());
        let (at, port) = (listener.ip(), listener.port());
        let rules = [
            Rule::served(family, Transport::Tcp).lead(at, Some(port)),
            Rule::served(family, Transport::Udp).lead(at, None),
            // In the ranges the other chain refuses what these take.
            Rule::everywhere(family, Transport::Tcp).lead(at, Some(port)),
            Rule::everywhere(family, Transport::Udp).lead(at, None),
        ];
        let changes = rules.map(|rule| self.rule(PREROUTING, &rule));
        self.change(&changes)
    }

    /// Makes an address and port lead to the sockets of its family. The unspecified address stands for all
    /// of this machine that are in none of the ranges. A further call for the same changes nothing.
    ///
    /// # Errors
    ///
    /// `StorageFull` where the table is full.
    pub fn serve(&self, transport: Transport, at: SocketAddr) -> io::Result<()> {
        let mut state = self.state();
        if state.served.contains(&(transport, at)) {
            return Ok(());
        }
        if state.served.len() >= self.entries_max {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let change = self.element(Kind::NewElement, transport, at);
        state.netfilter.commit(&[change])?;
        state.served.insert((transport, at));
        Ok(())
    }

    /// Takes an address and port out of the table. What is established stays; one that is not in it is
    /// none to take out.
    ///
    /// # Errors
    ///
    /// Fails where the kernel does, which leaves the entry in the table.
    pub fn end(&self, transport: Transport, at: SocketAddr) -> io::Result<()> {
        let mut state = self.state();
        if !state.served.contains(&(transport, at)) {
            return Ok(());
        }
        let change = self.element(Kind::DeleteElement, transport, at);
        state.netfilter.commit(&[change])?;
        state.served.remove(&(transport, at));
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked there has left it as the kernel has it, or short of one entry.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what the table begins with: its sets, and the rules that refuse.
    fn beginning(&self, owner: Owner) -> Vec<Change> {
        let table = Attributes::default().text(NFTA_TABLE_NAME, &self.table);
        let table = match owner {
            Owner::Socket => table.number(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER),
            Owner::Nobody => table,
        };
        let mut changes = vec![Change::new(Kind::NewTable, table)];
        for (id, family) in (1..).step_by(2).zip(Family::ALL) {
            changes.push(self.set(family.served(), family.served_key(), id));
            changes.push(self.set(family.everywhere(), family.everywhere_key(), id + 1));
        }
        changes.push(self.chain(PREROUTING, NF_INET_PRE_ROUTING, PRIORITY_MANGLE));
        changes.push(self.chain(INPUT, NF_INET_LOCAL_IN, PRIORITY_FILTER));
        let refusing = self.ranges.iter().flat_map(|range| {
            [Transport::Tcp, Transport::Udp].map(|transport| Rule::refuse(*range, transport))
        });
        changes.extend(refusing.map(|rule| self.rule(INPUT, &rule)));
        changes
    }

    fn set(&self, name: &str, (key_type, key_bytes): (u32, u32), id: u32) -> Change {
        let set = Attributes::default()
            .text(NFTA_SET_TABLE, &self.table)
            .text(NFTA_SET_NAME, name)
            .number(NFTA_SET_FLAGS, 0)
            .number(NFTA_SET_KEY_TYPE, key_type)
            .number(NFTA_SET_KEY_LEN, key_bytes)
            .number(NFTA_SET_ID, id);
        Change::new(Kind::NewSet, set)
    }

    fn chain(&self, name: &str, hook: u32, priority: i32) -> Change {
        let hook = Attributes::default()
            .number(NFTA_HOOK_HOOKNUM, hook)
            .number(NFTA_HOOK_PRIORITY, priority.cast_unsigned());
        let chain = Attributes::default()
            .text(NFTA_CHAIN_TABLE, &self.table)
            .text(NFTA_CHAIN_NAME, name)
            .nested(NFTA_CHAIN_HOOK, &hook)
            .text(NFTA_CHAIN_TYPE, "filter");
        Change::new(Kind::NewChain, chain)
    }

    fn rule(&self, chain: &str, rule: &Rule) -> Change {
        let rule = Attributes::default()
            .text(NFTA_RULE_TABLE, &self.table)
            .text(NFTA_RULE_CHAIN, chain)
            .nested(NFTA_RULE_EXPRESSIONS, rule.expressions());
        Change::new(Kind::NewRule, rule)
    }

    fn element(&self, kind: Kind, transport: Transport, at: SocketAddr) -> Change {
        let (set, key) = expressions::key(transport, at);
        let key = Attributes::default().value(NFTA_SET_ELEM_KEY, &key);
        let elements = Attributes::default().element(&key);
        let element = Attributes::default()
            .text(NFTA_SET_ELEM_LIST_TABLE, &self.table)
            .text(NFTA_SET_ELEM_LIST_SET, set)
            .nested(NFTA_SET_ELEM_LIST_ELEMENTS, &elements);
        Change::new(kind, element)
    }
}

impl Drop for SocketRules {
    fn drop(&mut self) {
        // An owned one would go with the socket; the other one only so. Left after an error, it is
        // removed by the next who makes rules.
        let deletion = delete(&self.table);
        drop(self.state().netfilter.commit(&[deletion]));
    }
}

/// Returns the name of the table for ranges, which no two processes of a machine share.
fn name(ranges: &[IpNet]) -> String {
    let first = ranges.first().map(|range| range.trunc().to_string());
    let first = first.unwrap_or_else(|| "node".to_owned());
    let allowed = |letter: char| match letter.is_ascii_alphanumeric() {
        true => letter,
        false => '_',
    };
    let first = first.chars().map(allowed);
    PREFIX.chars().chain(first).collect()
}

/// Takes the socket that stands for a table, nothing if a living process has it.
fn claim(table: &str) -> Option<UnixListener> {
    let name = UnixAddress::from_abstract_name(format!("coracle/rules/{table}")).ok()?;
    UnixListener::bind_addr(&name).ok()
}

/// Removes tables that processes have left: the one that is claimed here, and those that nobody claims.
fn remove_stale(netfilter: &mut Netfilter, claimed: &str) -> io::Result<()> {
    let listed = netfilter.list(Kind::GetTable)?;
    let named = listed
        .iter()
        .filter_map(|table| netfilter::text(table, NFTA_TABLE_NAME));
    let ours = named.filter(|table| table.starts_with(PREFIX));
    for table in ours.collect::<Vec<_>>() {
        // Held until it is removed.
        let free = claim(&table);
        if table == claimed || free.is_some() {
            netfilter.commit(&[delete(&table)])?;
        }
    }
    Ok(())
}

fn delete(table: &str) -> Change {
    let table = Attributes::default().text(NFTA_TABLE_NAME, table);
    Change::new(Kind::DeleteTable, table)
}

/// Tells whether the kernel knows no tables with an owner.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}

#[cfg(test)]
mod tests;
