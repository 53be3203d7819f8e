//! Whose folder it is, and the key that seals values before they reach a file.
//!
//! `store.key` holds the key; `store.id` names the store and holds that name sealed, so another
//! key is noticed before anything is written with it.

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use thiserror::Error;

use super::{
    files::{Folder, read_whole, write_whole},
    frame::StoreId,
};
use crate::record::Revision;

const KEY_NAME: &str = "store.key";
const ID_NAME: &str = "store.id";
const KEY_BYTES: usize = 32;
const ID_MAGIC: &[u8; 8] = b"CORACLES";
const TAG_BYTES: usize = 16;
const ID_BYTES: usize = ID_MAGIC.len() + 16 + NONCE_LEN + 16 + TAG_BYTES;

/// Seals and opens the values of one store.
pub(crate) struct Sealer {
    id: StoreId,
    key: LessSafeKey,
    random: SystemRandom,
}

/// Why the store's key cannot be used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The folder holds a store and no key.
    #[error("`{KEY_NAME}` is missing; put the key of this folder back, sealed values need it")]
    Missing,
    /// The key is not the one the store was made with.
    #[error("`{KEY_NAME}` is not the key of this store; put the key of this folder back")]
    Wrong,
    /// The folder holds values and nothing that says whose they are.
    #[error("`{ID_NAME}` is missing or damaged; put the file of this folder back")]
    Identity,
    /// The key's files cannot be read or written.
    #[error("failed to read or write the key")]
    Files(#[source] std::io::Error),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

impl Sealer {
    /// Reads the key, or makes one for a folder in which there is no store yet.
    pub(crate) fn establish(folder: &dyn Folder, is_new: bool) -> Result<Sealer, KeyError> {
        let random = SystemRandom::new();
        let key = read_whole(folder, KEY_NAME, KEY_BYTES + 1).map_err(KeyError::Files)?;
        let id = read_whole(folder, ID_NAME, ID_BYTES + 1).map_err(KeyError::Files)?;
        match (key, id) {
            (Some(key), Some(id)) => Sealer::known(&key, &id, random),
            (None, Some(_)) => Err(KeyError::Missing),
            (_, None) if !is_new => Err(KeyError::Identity),
            // The first start ended between the two files: nothing was sealed with this key.
            (_, None) => Sealer::found(folder, random),
        }
    }

    fn known(key: &[u8], id: &[u8], random: SystemRandom) -> Result<Sealer, KeyError> {
        let rest = id.strip_prefix(ID_MAGIC).ok_or(KeyError::Identity)?;
        let (id, proof) = rest.split_first_chunk::<16>().ok_or(KeyError::Identity)?;
        let sealer = Sealer {
            id: StoreId(*id),
            key: unbound(key).ok_or(KeyError::Wrong)?,
            random,
        };
        match sealer.open("", Revision::default(), proof) {
            Some(opened) if opened == id => Ok(sealer),
            _ => Err(KeyError::Wrong),
        }
    }

    fn found(folder: &dyn Folder, random: SystemRandom) -> Result<Sealer, KeyError> {
        let (mut key, mut id) = ([0; KEY_BYTES], [0; 16]);
        random.fill(&mut key).map_err(|_| KeyError::Random)?;
        random.fill(&mut id).map_err(|_| KeyError::Random)?;
        let sealer = Sealer {
            id: StoreId(id),
            key: unbound(&key).expect("the key has the cipher's length"),
            random,
        };
        let proof = sealer
            .seal("", Revision::default(), &id)
            .ok_or(KeyError::Random)?;
        write_whole(folder, KEY_NAME, &key).map_err(KeyError::Files)?;
        let id = [ID_MAGIC.as_slice(), &id, &proof].concat();
        write_whole(folder, ID_NAME, &id).map_err(KeyError::Files)?;
        Ok(sealer)
    }

    pub(crate) fn id(&self) -> StoreId {
        self.id
    }

    /// Seals a value for one key and revision; nothing if the system gives no random numbers.
    pub(crate) fn seal(&self, key: &str, revision: Revision, value: &[u8]) -> Option<Vec<u8>> {
        // A random nonce, never a counter: a counter could repeat after a crash.
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = Vec::with_capacity(NONCE_LEN + value.len() + TAG_BYTES);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(value);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, associated(key, revision), &mut sealed[NONCE_LEN..])
            .ok()?;
        sealed.extend_from_slice(tag.as_ref());
        Some(sealed)
    }

    /// Opens what was sealed for this key and revision; nothing if it is anything else.
    pub(crate) fn open(&self, key: &str, revision: Revision, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut value = sealed.to_vec();
        let opened = self
            .key
            .open_in_place(nonce, associated(key, revision), &mut value)
            .ok()?
            .len();
        value.truncate(opened);
        Some(value)
    }
}

fn unbound(key: &[u8]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key)
        .ok()
        .map(LessSafeKey::new)
}

/// A sealed value cannot be moved to another key or passed off as a newer one.
fn associated(key: &str, revision: Revision) -> Aad<Vec<u8>> {
    let mut bytes = revision.get().to_le_bytes().to_vec();
    bytes.extend_from_slice(key.as_bytes());
    Aad::from(bytes)
}
