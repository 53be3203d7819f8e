//! The bytes of a file that is held in memory, in pages, so that holes cost nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::store::Store;

/// Bytes of one page, as a system's memory has them.
const PAGE: u64 = 4096;
const PAGE_BYTES: usize = 4096;

/// What the place of a page in the table costs.
const PLACE_CHARGE: u64 = 32;

/// The pages of one file; what they cost is given back when they are dropped.
pub(super) struct Pages {
    store: Arc<Store>,
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES]>>,
}

impl Pages {
    pub(super) fn new(store: &Arc<Store>) -> Pages {
        Pages {
            store: Arc::clone(store),
            pages: BTreeMap::new(),
        }
    }

    /// Writes all of `bytes`, or nothing when there is no room for them.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ErrorCode> {
        let end = offset.saturating_add(bytes.len() as u64);
        let wanted = offset / PAGE..end.div_ceil(PAGE);
        let there = self.pages.range(wanted.clone()).count() as u64;
        let missing = (wanted.end - wanted.start).saturating_sub(there);
        self.store.charge_pages(missing)?;
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let begin = within(at);
            let (now, later) = rest.split_at(rest.len().min(PAGE_BYTES - begin));
            let page = self.pages.entry(at / PAGE);
            let page = page.or_insert_with(|| Box::new([0; PAGE_BYTES]));
            page[begin..begin + now.len()].copy_from_slice(now);
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Reads `len` bytes; what was never written is zero.
    pub(super) fn read(&self, offset: u64, len: usize) -> Bytes {
        let mut read = vec![0; len];
        let end = offset.saturating_add(len as u64);
        for (index, page) in self.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let first = index * PAGE;
            let (from, to) = (first.max(offset), (first + PAGE).min(end));
            let place = usize::try_from(from - offset).unwrap_or(len);
            let count = usize::try_from(to - from).unwrap_or(0);
            let begin = within(from);
            read[place..place + count].copy_from_slice(&page[begin..begin + count]);
        }
        read.into()
    }

    /// Forgets everything from `len` on.
    pub(super) fn cut(&mut self, len: u64) {
        let gone = self.pages.split_off(&len.div_ceil(PAGE));
        self.store.refund_pages(gone.len() as u64);
        if !len.is_multiple_of(PAGE)
            && let Some(page) = self.pages.get_mut(&(len / PAGE))
        {
            page[within(len)..].fill(0);
        }
    }
}

impl Store {
    fn charge_pages(&self, count: u64) -> Result<(), ErrorCode> {
        let (content, places) = (
            count.saturating_mul(PAGE),
            count.saturating_mul(PLACE_CHARGE),
        );
        self.charge(content)?;
        self.charge_entry(places)
            .inspect_err(|_| self.refund(content))
    }

    fn refund_pages(&self, count: u64) {
        self.refund(count * PAGE);
        self.refund_entry(count * PLACE_CHARGE);
    }
}

/// Where in its page a byte is.
fn within(offset: u64) -> usize {
    usize::try_from(offset % PAGE).unwrap_or(0)
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.store.refund_pages(self.pages.len() as u64);
    }
}
