//! Single faults, told apart.

use proptest::prelude::*;

use super::{
    life::{Life, SECRET},
    scenario::World,
};
use crate::{
    Expect, WatchError, WriteError,
    durable::{
        BaseError, JournalError, KeyError, OpenError, RecoveryError, base::Side,
        compactor::CheckpointError, files::Folder, journal::segment_name,
    },
};

const WHOLE: usize = 1 << 20;

/// Writes one value and returns what its owner was told.
fn put(life: &mut Life, key: &'static str, size: usize) -> Result<u64, WriteError> {
    let expect = match life.store.get(key) {
        Some(_) => Expect::Present,
        None => Expect::Absent,
    };
    life.send(key, expect, Some(vec![b'v'; size]));
    let (_, mut answers) = life.commit(WHOLE);
    answers.remove(0).1
}

fn error(world: &World) -> OpenError {
    match world.try_open() {
        Ok(_) => panic!("the store opens although it must not"),
        Err(error) => error,
    }
}

#[test]
fn a_full_disk_refuses_writes_and_goes_on_when_there_is_room() {
    let world = World::new(1);
    let mut life = world.try_open().unwrap();
    put(&mut life, "/a/x", 10).unwrap();
    world.disk.set_room(Some(30));
    for _ in 0..3 {
        assert_eq!(put(&mut life, "/a/y", 100), Err(WriteError::NoSpace));
        assert!(life.store.get("/a/y").is_none());
    }
    // It can be opened and read while the disk is full.
    drop(life);
    world.disk.set_room(Some(0));
    let mut life = world.try_open().unwrap();
    assert!(life.store.get("/a/x").is_some());
    assert_eq!(put(&mut life, "/a/y", 100), Err(WriteError::NoSpace));
    world.disk.set_room(None);
    put(&mut life, "/a/y", 100).unwrap();
    drop(life);
    world.cut();
    let life = world.try_open().unwrap();
    assert!(life.store.get("/a/x").is_some() && life.store.get("/a/y").is_some());
}

#[test]
fn a_failed_sync_is_never_taken_for_durable() {
    let world = World::new(2);
    let mut life = world.try_open().unwrap();
    let first = put(&mut life, "/a/x", 10).unwrap();
    world.fate.lock().faults = Some(1);
    let refused = put(&mut life, "/a/y", 10);
    assert!(
        matches!(refused, Err(WriteError::Unwritable { .. })),
        "{refused:?}"
    );
    assert_eq!(life.store.revision().get(), first);
    world.fate.lock().faults = None;
    let second = put(&mut life, "/b/x", 10).unwrap();
    assert!(second > first + 1, "the refused revision is not used again");
    drop(life);
    world.cut();
    let life = world.try_open().unwrap();
    assert!(life.store.get("/a/x").is_some() && life.store.get("/b/x").is_some());
    assert!(
        life.store.get("/a/y").is_none(),
        "what was refused does not come back"
    );
}

/// Two writers to one key share a group; the third is told of the second only when that is shown.
#[test]
fn a_chain_of_swaps_is_judged_by_what_is_before_it() {
    let world = World::new(3);
    let mut life = world.try_open().unwrap();
    life.send("/a/x", Expect::Absent, Some(b"1".to_vec()));
    let first = life.ahead["/a/x"].0;
    life.send("/a/x", Expect::At(first.into()), Some(b"2".to_vec()));
    life.send_wrong("/a/x", Expect::At(first.into()));
    life.send_wrong("/a/x", Expect::Absent);
    assert!(life.store.get("/a/x").is_none());
    assert_eq!(
        life.wrong_waiting(),
        2,
        "nobody is told of what may still be lost"
    );
    let (group, answers) = life.commit(WHOLE);
    assert_eq!(group, [first, first + 1]);
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
    assert_eq!(&life.store.get("/a/x").unwrap().value[..], b"2");
    assert_eq!(life.watched(), [first, first + 1]);
}

#[test]
fn history_begins_at_the_start() {
    let world = World::new(4);
    let mut life = world.try_open().unwrap();
    let at = put(&mut life, "/a/x", 1).unwrap();
    drop(life);
    let life = world.try_open().unwrap();
    let oldest = life.store.revision();
    assert_eq!(oldest.get(), at);
    for prefix in ["/a/", "/none/"] {
        let early = life.store.watch(prefix, (at - 1).into()).unwrap_err();
        assert_eq!(early, WatchError::Compacted { oldest });
        assert!(life.store.watch(prefix, oldest).is_ok());
    }
}

#[test]
fn damage_in_the_middle_is_told_and_a_torn_tail_is_not() {
    // Offsets in the first segment: its groups begin behind the header.
    for (from_end, is_torn) in [(1, true), (40, true), (80, false), (95, false)] {
        let world = World::new(5);
        let mut life = world.try_open().unwrap();
        put(&mut life, "/a/x", 10).unwrap();
        put(&mut life, "/a/y", 10).unwrap();
        drop(life);
        let name = segment_name(1);
        world.disk.damage(&name, |bytes| {
            let at = bytes.len() - from_end;
            bytes[at] ^= 0x20;
        });
        match world.try_open() {
            Ok(life) => assert!(is_torn && life.store.get("/a/x").is_some()),
            Err(OpenError::Recovery { source, .. }) => {
                let damaged = RecoveryError::Journal(JournalError::Damaged { name, offset: 56 });
                assert_eq!(format!("{source:?}"), format!("{damaged:?}"));
                assert!(!is_torn);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn a_missing_segment_is_told() {
    let world = World::new(6);
    let mut life = world.try_open().unwrap();
    for _ in 0..3 {
        put(&mut life, "/a/x", 10).unwrap();
        life.rotate();
    }
    drop(life);
    world.disk.lose(&segment_name(2));
    let source = match error(&world) {
        OpenError::Recovery { source, .. } => source,
        error => panic!("{error:?}"),
    };
    let missing = RecoveryError::Journal(JournalError::Missing {
        name: segment_name(2),
    });
    assert_eq!(format!("{source:?}"), format!("{missing:?}"));
}

/// Whichever copy is lost, the other one and the journal hold everything; without both, it is told.
#[test]
fn one_damaged_copy_costs_nothing() {
    for damaged in Side::BOTH {
        let world = World::new(7);
        let mut life = world.try_open().unwrap();
        for size in 0..6 {
            put(&mut life, "/a/x", size).unwrap();
            put(&mut life, "/b/x", size).unwrap();
            life.rotate();
            life.checkpoint().unwrap();
        }
        drop(life);
        world.shelf.damage(damaged);
        let mut life = world.try_open().unwrap();
        assert_eq!(life.store.get("/b/x").unwrap().value.len(), 5);
        // It is made anew as soon as the damage is noticed, at the latest when it is read back.
        for _ in 0..3 {
            put(&mut life, "/b/x", 9).unwrap();
            life.rotate();
            life.checkpoint().or_else(|_| life.checkpoint()).unwrap();
        }
        drop(life);
        world.shelf.damage(damaged.other());
        drop(world.try_open().unwrap());
        world.shelf.damage(damaged);
        let source = match error(&world) {
            OpenError::Recovery { source, .. } => source,
            error => panic!("{error:?}"),
        };
        assert!(
            matches!(source, RecoveryError::Base(BaseError::Content)),
            "{source:?}"
        );
    }
}

/// A copy that was being written when the power failed is not even opened.
#[test]
fn a_half_written_copy_has_no_mark() {
    let world = World::new(11);
    let mut life = world.try_open().unwrap();
    for round in 0..3 {
        put(&mut life, "/a/x", 10).unwrap();
        life.rotate();
        // Removing the mark, syncing that, opening the copy, reading the journal; then darkness.
        world.fate.lock().power = (round == 2).then_some(4);
        assert_eq!(life.checkpoint().is_err(), round == 2);
    }
    drop(life);
    world.fate.lock().power = None;
    world.cut();
    let names = world.disk.names().unwrap();
    let marks = names.iter().filter(|name| name.ends_with(".mark"));
    assert_eq!(marks.count(), 1);
    assert!(world.try_open().unwrap().store.get("/a/x").is_some());
}

/// A busy store ends soon; what is not applied stays in the journal, and no copy is spoiled.
#[test]
fn too_much_is_not_applied_when_the_store_ends() {
    let world = World::new(14);
    let mut life = world.try_open().unwrap();
    for round in 0..8 {
        put(&mut life, "/a/x", 200).unwrap();
        life.rotate();
        if round < 2 {
            life.checkpoint().unwrap();
        }
    }
    let is_ending = life.opened.compactor.is_ending();
    is_ending.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(life.checkpoint(), Err(CheckpointError::Ending)));
    let names = world.disk.names().unwrap();
    let marks = names.iter().filter(|name| name.ends_with(".mark"));
    assert_eq!(marks.count(), 2);
    drop(life);
    let mut life = world.try_open().unwrap();
    assert_eq!(life.store.get("/a/x").unwrap().value.len(), 200);
    life.checkpoint().unwrap();
}

/// A killed start leaves names that the system shows and the disk does not have yet: the next one
/// must not remove what they replace before they are durable.
#[test]
fn a_start_that_is_killed_and_one_that_loses_power_lose_nothing() {
    for seed in 0..3000_u32 {
        let world = World::new(seed.into());
        let mut life = world.try_open().unwrap();
        put(&mut life, "/a/x", 10).unwrap();
        drop(life);
        world.fate.lock().power = Some(seed % 30);
        drop(world.try_open());
        world.fate.lock().power = Some(seed / 30 % 40);
        drop(world.try_open());
        world.fate.lock().power = None;
        world.cut();
        let life = world
            .try_open()
            .unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        assert!(life.store.get("/a/x").is_some(), "seed {seed}");
    }
}

#[test]
fn idle_restarts_leave_nothing_behind() {
    let world = World::new(12);
    let mut life = world.try_open().unwrap();
    put(&mut life, "/a/x", 10).unwrap();
    drop(life);
    for _ in 0..5 {
        drop(world.try_open().unwrap());
    }
    let names = world.disk.names().unwrap();
    // The key, the identity, and one segment that took over the only group.
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn another_key_or_none_is_told() {
    let world = World::new(8);
    let mut life = world.try_open().unwrap();
    put(&mut life, "/secrets/x", 10).unwrap();
    drop(life);
    world.disk.damage("store.key", |bytes| bytes[3] ^= 1);
    let told = error(&world);
    assert!(
        matches!(
            told,
            OpenError::Key {
                source: KeyError::Wrong,
                ..
            }
        ),
        "{told:?}"
    );
    world.disk.lose("store.key");
    let told = error(&world);
    assert!(
        matches!(
            told,
            OpenError::Key {
                source: KeyError::Missing,
                ..
            }
        ),
        "{told:?}"
    );
    world.disk.lose("store.id");
    let told = error(&world);
    assert!(
        matches!(
            told,
            OpenError::Key {
                source: KeyError::Identity,
                ..
            }
        ),
        "{told:?}"
    );
}

#[test]
fn no_file_holds_the_value_of_a_secret() {
    // The plain value is found where it may be, so the search can find it.
    for (key, is_found) in [("/a/x", true), ("/secrets/x", false)] {
        let world = World::new(9);
        let mut life = world.try_open().unwrap();
        life.send(key, Expect::Absent, Some(SECRET.to_vec()));
        life.commit(WHOLE);
        life.rotate();
        life.checkpoint().unwrap();
        let platter = world.disk.platter();
        let is_written = platter.windows(SECRET.len()).any(|part| part == SECRET);
        assert_eq!(
            (is_written, world.shelf.holds(SECRET)),
            (is_found, is_found)
        );
        drop(life);
        let life = world.try_open().unwrap();
        assert_eq!(&life.store.get(key).unwrap().value[..], SECRET);
    }
}

/// What damage leaves of a segment is told, or is a beginning of what was written.
#[derive(Clone, Debug)]
enum Damage {
    Cut(usize),
    Flip(usize, u8),
    Append(Vec<u8>),
    Overwrite(usize, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let bytes = || proptest::collection::vec(any::<u8>(), 1..60);
    prop_oneof![
        (0..300_usize).prop_map(Damage::Cut),
        (0..300_usize, 1..=255_u8).prop_map(|(at, flip)| Damage::Flip(at, flip)),
        bytes().prop_map(Damage::Append),
        (0..300_usize, bytes()).prop_map(|(at, bytes)| Damage::Overwrite(at, bytes)),
    ]
}

impl Damage {
    fn apply(self, file: &mut Vec<u8>) {
        match self {
            Damage::Cut(len) => file.truncate(len),
            Damage::Flip(at, flip) => file.iter_mut().skip(at).take(1).for_each(|b| *b ^= flip),
            Damage::Append(bytes) => file.extend(bytes),
            Damage::Overwrite(at, bytes) => {
                file.iter_mut()
                    .skip(at)
                    .zip(bytes)
                    .for_each(|(old, new)| *old = new);
            }
        }
    }
}

proptest! {
    #[test]
    fn a_damaged_segment_yields_a_beginning_or_an_error(
        damages in proptest::collection::vec(damage(), 1..4),
    ) {
        let world = World::new(13);
        let mut life = world.try_open().unwrap();
        let mut states = vec![life.contents()];
        for (key, size) in [("/a/x", 5), ("/secrets/x", 20), ("/a/x", 7), ("/b/x", 30)] {
            put(&mut life, key, size).unwrap();
            states.push(life.contents());
        }
        drop(life);
        world.disk.damage(&segment_name(1), |file| {
            damages.into_iter().for_each(|damage| damage.apply(file));
        });
        if let Ok(life) = world.try_open() {
            prop_assert!(states.contains(&life.contents()));
        }
    }
}
