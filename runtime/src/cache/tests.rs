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

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn numbered(number: u8) -> CodeDigest {
    CodeDigest::of(&[number])
}

/// Publishes ten bytes of code, last used so long ago, for the engine `fits`.
async fn publish_used(root: &Path, fits: &str, number: u8, ago: Duration) {
    let cache = Cache::open(root, fits).expect("a cache");
    let lock = cache.lock(&numbered(number)).await.expect("a lock");
    fs::write(lock.draft(), b"ten bytes.").expect("writable");
    lock.publish(&artefact(b"ten bytes.")).expect("writable");
    for extension in ["json", "cwasm"] {
        let file = File::options()
            .write(true)
            .open(cache.path(&numbered(number), extension));
        let at = SystemTime::now() - ago;
        file.expect("it was published")
            .set_modified(at)
            .expect("settable");
    }
}

fn is_there(root: &Path, fits: &str, number: u8) -> bool {
    let cache = Cache::open(root, fits).expect("a cache");
    let found = cache.find(&numbered(number)).is_some();
    assert_eq!(cache.path(&numbered(number), "cwasm").exists(), found);
    found
}

// Every rebuild of a program and every update of the engine leaves code that nobody asks for again.
#[tokio::test]
async fn code_that_nobody_used_for_a_month_is_removed_of_every_engine() {
    let root = TempDir::new().expect("a folder");
    let root = root.path();
    publish_used(root, "old", 1, 31 * DAY).await;
    publish_used(root, "new", 2, 31 * DAY).await;
    publish_used(root, "new", 3, 29 * DAY).await;
    eviction::look_through(root, SystemTime::now(), u64::MAX).expect("it is looked through");
    assert!(!is_there(root, "old", 1) && !is_there(root, "new", 2));
    assert!(is_there(root, "new", 3));
    // Finding it was a use.
    let later = SystemTime::now() + 2 * DAY;
    eviction::look_through(root, later, u64::MAX).expect("it is looked through");
    assert!(is_there(root, "new", 3));
}

#[tokio::test]
async fn of_too_much_code_the_oldest_goes_and_what_was_used_today_stays() {
    let root = TempDir::new().expect("a folder");
    let root = root.path();
    for (number, ago) in [(1, 3 * DAY), (2, 2 * DAY), (3, HOUR)] {
        publish_used(root, "fits", number, ago).await;
    }
    let of_one = entry_bytes(root);
    eviction::look_through(root, SystemTime::now(), 2 * of_one).expect("it is looked through");
    assert!(!is_there(root, "fits", 1));
    let cache = Cache::open(root, "fits").expect("a cache");
    assert!(cache.path(&numbered(2), "cwasm").exists());
    eviction::look_through(root, SystemTime::now(), 0).expect("it is looked through");
    assert!(!is_there(root, "fits", 2) && is_there(root, "fits", 3));
}

/// Returns the bytes of one of the equal entries.
fn entry_bytes(root: &Path) -> u64 {
    let cache = Cache::open(root, "fits").expect("a cache");
    let length = |extension| cache.path(&numbered(1), extension).metadata();
    let lengths = ["json", "cwasm"].map(|extension| length(extension).expect("it is there").len());
    lengths.iter().sum()
}

#[tokio::test]
async fn code_that_someone_writes_stays() {
    let root = TempDir::new().expect("a folder");
    let root = root.path();
    publish_used(root, "fits", 1, 31 * DAY).await;
    let cache = Cache::open(root, "fits").expect("a cache");
    let lock = cache.lock(&numbered(1)).await.expect("a lock");
    eviction::look_through(root, SystemTime::now(), 0).expect("it is looked through");
    drop(lock);
    assert!(is_there(root, "fits", 1));
}

#[tokio::test]
async fn the_folder_is_looked_through_once_a_day() {
    let root = TempDir::new().expect("a folder");
    let root = root.path();
    publish_used(root, "fits", 1, 31 * DAY).await;
    let (cache, now) = (
        Cache::open(root, "fits").expect("a cache"),
        SystemTime::now(),
    );
    let code = cache.path(&numbered(1), "cwasm");
    eviction::look_through_daily(root, &cache.folder, now + 23 * HOUR);
    assert!(code.exists(), "the folder was made within a day");
    eviction::look_through_daily(root, &cache.folder, now + 25 * HOUR);
    assert!(!code.exists());
}
