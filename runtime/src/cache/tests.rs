use super::*;
use tempfile::TempDir;

const TEXT: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn digest() -> CodeDigest {
    CodeDigest::parse(TEXT).expect("a digest")
}

fn artefact(code: &[u8]) -> Artefact {
    Artefact {
        sha256: hex(&Sha256::digest(code)),
        command: true,
        handler: false,
        dense: false,
    }
}

async fn publish(cache: &Cache, code: &[u8]) {
    let lock = cache.lock(&digest()).await.expect("a lock");
    fs::write(lock.draft(), code).expect("writable");
    lock.publish(&artefact(code)).expect("writable");
}

#[test]
fn only_a_whole_sha256_digest_names_a_file() {
    let check = |text: &str, valid| assert_eq!(CodeDigest::parse(text).is_some(), valid, "{text}");
    check(TEXT, true);
    check("sha512:00", false);
    check("sha256:", false);
    check(&TEXT[..TEXT.len() - 1], false);
    check(&TEXT.to_uppercase(), false);
    check(&TEXT.replace("0123", "../."), false);
}

#[tokio::test]
async fn what_was_published_is_found_by_other_processes() {
    let root = TempDir::new().expect("a folder");
    let (one, two) = (
        Cache::open(root.path(), "fits").expect("one"),
        Cache::open(root.path(), "fits").expect("two"),
    );
    assert!(one.find(&digest()).is_none());
    publish(&one, b"code").await;
    let entry = two.find(&digest()).expect("it was published");
    assert_eq!(fs::read(entry.path).expect("readable"), b"code");
}

#[tokio::test]
async fn code_for_another_engine_is_not_found() {
    let root = TempDir::new().expect("a folder");
    publish(&Cache::open(root.path(), "old").expect("old"), b"code").await;
    assert!(
        Cache::open(root.path(), "new")
            .expect("new")
            .find(&digest())
            .is_none()
    );
}

#[tokio::test]
async fn only_one_process_writes_an_entry() {
    let root = TempDir::new().expect("a folder");
    let (one, two) = (
        Cache::open(root.path(), "fits").expect("one"),
        Cache::open(root.path(), "fits").expect("two"),
    );
    let lock = one.lock(&digest()).await.expect("a lock");
    let name = digest();
    let mut waiting = std::pin::pin!(two.lock(&name));
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    drop(lock);
    waiting.await.expect("it is free now");
}

#[tokio::test]
async fn what_a_dead_writer_left_is_removed() {
    let root = TempDir::new().expect("a folder");
    let cache = Cache::open(root.path(), "fits").expect("a cache");
    let draft = cache.lock(&digest()).await.expect("a lock").draft();
    fs::write(&draft, b"half").expect("writable");
    let lock = cache.lock(&digest()).await.expect("a lock");
    assert!(!draft.exists());
    drop(lock);
}
