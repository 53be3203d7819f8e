//! The loopback addresses of one process: a block of `127.64.0.0/10` that no other run uses.
//!
//! A block is claimed by binding a fixed port of its first address. The kernel lets go of it when
//! the process ends, however it ends, so a claim is never stale.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use parking_lot::Mutex;
use socket2::Socket;

use crate::addresses::AddressPool;
use crate::platform;

/// The first address of `127.64.0.0/10`.
const RANGE_FIRST: u32 = u32::from_be_bytes([127, 64, 0, 0]);

/// A block is a /18: room for 16,383 pods, above what one node holds.
const BLOCK_ADDRESSES: u32 = 1 << 14;

/// So many blocks fit into the range, and so many runs live side by side.
const BLOCKS: u32 = 1 << 8;

/// The ports a claim binds, outside the range Linux hands out to clients. The second is for
/// machines where something holds the first on every address.
const CLAIM_PORTS: [u16; 2] = [64_127, 62_127];

/// A block of loopback addresses that only this process uses, until this is dropped.
#[derive(Debug)]
pub struct LoopbackBlock {
    first: u32,
    taken: Mutex<AddressPool>,
    _claim: Socket,
}

impl LoopbackBlock {
    /// How many addresses a block has.
    pub const ADDRESSES: u32 = BLOCK_ADDRESSES;

    /// Claims the first free block, nothing if there is none or the system has no such addresses.
    pub fn claim() -> Option<LoopbackBlock> {
        if !platform::LOOPBACK_BLOCKS {
            return None;
        }
        let block =
            |port| (0..BLOCKS).find_map(move |number| LoopbackBlock::claim_one(number, port));
        CLAIM_PORTS.into_iter().find_map(block)
    }

    fn claim_one(number: u32, port: u16) -> Option<LoopbackBlock> {
        let first = RANGE_FIRST + number * BLOCK_ADDRESSES;
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(first)), port);
        let claim = platform::bind_tcp(address).ok()?;
        let taken = Mutex::new(AddressPool::new(BLOCK_ADDRESSES, &[0]));
        Some(LoopbackBlock {
            first,
            taken,
            _claim: claim,
        })
    }

    /// Takes the address at `offset` of the block if it is free, else another; nothing if all are
    /// taken.
    pub fn take(&self, offset: u32) -> Option<Ipv4Addr> {
        let index = self.taken.lock().take_preferring(offset)?;
        Some(Ipv4Addr::from(self.first + index))
    }

    /// Gives an address back.
    pub fn give_back(&self, ip: Ipv4Addr) {
        self.taken
            .lock()
            .give_back(u32::from(ip).wrapping_sub(self.first));
    }
}

// Elsewhere there is one loopback address, and no block of them.
#[cfg(any(target_os = "linux", windows))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_claims_never_share_a_block_and_a_dropped_one_is_free_again() {
        let first = LoopbackBlock::claim().expect("a block is free");
        let second = LoopbackBlock::claim().expect("a second block is free");
        assert_ne!(first.first, second.first);
        let port = first
            ._claim
            .local_addr()
            .expect("bound")
            .as_socket()
            .expect("inet")
            .port();
        let number = (first.first - RANGE_FIRST) / BLOCK_ADDRESSES;
        assert!(LoopbackBlock::claim_one(number, port).is_none());
        drop(first);
        assert!(LoopbackBlock::claim_one(number, port).is_some());
    }

    #[test]
    fn a_block_gives_each_address_once() {
        let block = LoopbackBlock::claim().expect("a block is free");
        let first = block.take(2).expect("free");
        let second = block.take(2).expect("free");
        assert_eq!(u32::from(first), block.first + 2);
        assert_ne!(first, second);
        block.give_back(first);
        assert_eq!(block.take(2), Some(first));
    }
}
