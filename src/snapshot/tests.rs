//! Chains on real files, without a guest: what lies over what, what is refused, what goes and what stays.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use fixedbitset::FixedBitSet;
use honeyvmm::page_map;
use jiff::Timestamp;

use super::*;
use crate::domain_file;
use crate::state::State;

const MIB: u64 = 64;
const PAGE_BYTES: usize = 4096;

struct House {
    _folder: tempfile::TempDir,
    state: State,
}

impl House {
    fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(folder.path().join("state"));
        House { _folder: folder, state }
    }

    fn path(&self, id: &str) -> PathBuf {
        store::folder_of(&self.state, "a").join(id)
    }

    /// A snapshot whose RAM has these bytes at the begin of these pages; over another one, if there is one.
    fn write(&self, id: &str, over: Option<&str>, pages: &[(usize, u8)]) {
        let fresh = self.path(&format!("{id}.new"));
        self.state.make(&fresh).unwrap();
        for name in [STATE, REGISTERS] {
            put(&fresh.join(name), |file| file.write_all(b"[]")).unwrap();
        }
        put(&fresh.join(SHIM), |file| file.set_len(8192)).unwrap();
        let mut held = FixedBitSet::with_capacity((MIB << 20) as usize / PAGE_BYTES);
        put(&fresh.join(RAM), |file| {
            file.set_len(MIB << 20)?;
            pages.iter().try_for_each(|(page, byte)| {
                held.insert(*page);
                // A page of zeros is a hole that the map tells of.
                if *byte != 0 { file.write_all_at(&[*byte], (page * PAGE_BYTES) as u64) } else { Ok(()) }
            })
        })
        .unwrap();
        let parent = over.map(|over| {
            let below = Manifest::read(&self.path(over)).unwrap();
            store::parent_of(&self.state, &self.path(over), &below.uuid)
        });
        if parent.is_some() {
            put(&fresh.join(RAM_MAP), |file| file.write_all(&page_map::encode(&held))).unwrap();
        }
        let domain = domain_file::parse(&format!("name='a'\nmemory={MIB}\nkernel='k'")).unwrap().file;
        let manifest = Manifest {
            version: VERSION,
            build: "test".to_owned(),
            uuid: crate::uuid::text(crate::uuid::random()),
            kind: if parent.is_some() { Kind::Diff } else { Kind::Full },
            parent,
            reason: None,
            taken: Timestamp::UNIX_EPOCH,
            domain,
            folder: PathBuf::from("/"),
            pause_ms: 0.0,
            capture: None,
            event_seq: 0,
            depth: Default::default(),
            files: Default::default(),
        };
        seal(&fresh, &self.path(id), manifest).unwrap();
    }

    /// The first bytes of these pages, as a domain that goes on would have them.
    fn merged(&self, id: &str, pages: &[usize]) -> Vec<u8> {
        let chain = Chain::open(&self.path(id)).unwrap();
        let ram = tempfile::tempfile().unwrap();
        chain.merge_ram(&ram).unwrap();
        let mut all = FixedBitSet::with_capacity((MIB << 20) as usize / PAGE_BYTES);
        pages.iter().for_each(|page| all.insert(*page));
        let mut seen = Vec::new();
        chain
            .each_page(&all, |_, bytes| {
                seen.push(bytes[0]);
                Ok(())
            })
            .unwrap();
        let read = |page: &usize| {
            let mut byte = [0];
            ram.read_exact_at(&mut byte, (page * PAGE_BYTES) as u64).unwrap();
            byte[0]
        };
        let merged: Vec<u8> = pages.iter().map(read).collect();
        assert_eq!(merged, seen, "page by page it is the same");
        merged
    }
}

#[test]
fn the_highest_that_holds_a_page_counts_also_where_it_is_zero() {
    let house = House::new();
    house.write("1", None, &[(0, 1), (1, 1), (2, 1)]);
    house.write("2", Some("1"), &[(1, 2), (2, 0), (9, 2)]);
    house.write("3", Some("2"), &[(9, 3)]);
    assert_eq!(house.merged("2", &[0, 1, 2, 9]), [1, 2, 0, 2]);
    assert_eq!(house.merged("3", &[0, 1, 2, 9]), [1, 2, 0, 3]);
    compact(&house.path("2")).unwrap();
    assert_eq!(Manifest::read(&house.path("2")).unwrap().kind, Kind::Full);
    store::remove(&house.state, "1").unwrap();
    assert_eq!(house.merged("3", &[0, 1, 2, 9]), [1, 2, 0, 3]);
    let left: Vec<String> = std::fs::read_dir(store::folder_of(&house.state, "a"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left.len(), 2, "nothing is left of it: {left:?}");
}

#[test]
fn what_is_needed_or_in_use_stays() {
    let house = House::new();
    house.write("1", None, &[]);
    house.write("2", Some("1"), &[(1, 1)]);
    assert!(matches!(store::remove(&house.state, "1"), Err(SavedError::Needed { .. })));
    let used = Chain::open(&house.path("2")).unwrap();
    assert!(matches!(store::remove(&house.state, "2"), Err(SavedError::InUse(_))));
    assert!(matches!(compact(&house.path("2")), Err(SavedError::InUse(_))));
    drop(used);
    house.state.make(&house.state.domain("b")).unwrap();
    let layer = house.path("2").join("xvda.layer.0");
    let below = serde_json::to_vec(&[layer]).unwrap();
    std::fs::write(house.state.domain("b").join("xvda.below"), below).unwrap();
    assert!(
        matches!(store::remove(&house.state, "2"), Err(SavedError::Needed { .. })),
        "a start anew needs it"
    );
    std::fs::remove_file(house.state.domain("b").join("xvda.below")).unwrap();
    store::remove(&house.state, "2").unwrap();
    store::remove(&house.state, "a/1").unwrap();
    assert!(store::list(&house.state, None).unwrap().is_empty());
}

#[test]
fn a_chain_has_an_end() {
    let house = House::new();
    house.write("00", None, &[(0, 1)]);
    for member in 1..=CHAIN_MAX {
        let (id, over) = (format!("{member:02}"), format!("{:02}", member - 1));
        house.write(&id, Some(&over), &[(member, 1)]);
    }
    assert_eq!(Chain::open(&house.path("15")).unwrap().depth(), CHAIN_MAX);
    assert!(matches!(Chain::open(&house.path("16")), Err(SavedError::TooDeep(_))));
    // One that is its own parent, by hand.
    let path = house.path("01").join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("../../a/00", "../../a/01")).unwrap();
    assert!(matches!(Chain::open(&house.path("01")), Err(SavedError::Parent { .. })));
}

#[test]
fn only_what_is_finished_is_found_and_only_by_its_name() {
    let house = House::new();
    house.write("1", None, &[]);
    std::fs::create_dir_all(house.path("2.new")).unwrap();
    std::fs::create_dir_all(store::folder_of(&house.state, "b").join("1")).unwrap();
    for wrong in ["2", "2.new", "a/2.new", "", "/", "..", "../a/1", "a/../a/1", "c/1"] {
        assert!(matches!(store::find(&house.state, wrong), Err(SavedError::NotFound(_))), "{wrong}");
    }
    assert!(matches!(store::find(&house.state, "1"), Err(SavedError::Ambiguous(_))));
    assert_eq!(store::find(&house.state, "a/1").unwrap(), house.path("1"));
    let ids: Vec<_> = store::list(&house.state, None).unwrap();
    assert_eq!(ids.len(), 2);
    assert!(ids[0].manifest.is_ok() && ids[1].manifest.is_err(), "what is no snapshot is listed as such");
    store::remove_unfinished(&house.state).unwrap_err();
    house.state.make(&house.state.run()).unwrap();
    store::remove_unfinished(&house.state).unwrap();
    assert!(!house.path("2.new").exists() && house.path("1").exists());
    let earlier = store::id_of("2026-01-02T03:04:05.678Z".parse().unwrap());
    assert_eq!(earlier, "20260102T030405678");
    assert!(File::open(house.path("1").join("manifest.json")).is_ok());
}
