use super::segments::for_each_record;
use super::verify::{VerifyError, verify_chain};
use super::*;

fn append(journal: &mut Journal, payloads: &[&str]) -> Vec<Appended> {
    journal.append(Timestamp::UNIX_EPOCH, payloads.iter().map(|p| p.as_bytes())).unwrap()
}

fn payloads(dir: &Path, from: u64) -> Vec<String> {
    let mut all = Vec::new();
    for_each_record(dir, from, |r| {
        all.push(String::from_utf8(r.payload).unwrap());
        Ok::<(), SegmentError>(())
    })
    .unwrap();
    all
}

/// A journal of three segments with two records each.
fn three_segments(dir: &Path) -> Head {
    let mut journal = Journal::open(dir, 1).unwrap();
    // A segment that has its header only is over the limit of one byte already, so each append begins one of its own.
    for group in [["a", "b"], ["c", "d"], ["e", "f"]] {
        append(&mut journal, &group);
    }
    journal.head()
}

#[test]
fn records_and_head_survive_reopening_and_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let head = three_segments(dir.path());
    let mut journal = Journal::open(dir.path(), 1 << 20).unwrap();
    assert_eq!((journal.head(), head.index), (head, 6));
    assert_eq!(append(&mut journal, &["g"])[0].index, 7);
    assert_eq!(payloads(dir.path(), 1).concat(), "abcdefg");
    assert_eq!(payloads(dir.path(), 4).concat(), "defg");
    let report = verify_chain(dir.path()).unwrap();
    assert_eq!((report.first_index, report.last_index, report.records, report.torn_bytes), (1, 7, 7, 0));
    assert_eq!(report.head, blake3::Hash::from_bytes(journal.head().hash).to_hex().to_string());
}

#[test]
fn two_writers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _journal = Journal::open(dir.path(), 1).unwrap();
    assert!(matches!(Journal::open(dir.path(), 1), Err(JournalError::InUse(_))));
}

#[test]
fn a_tail_torn_anywhere_is_cut_kept_and_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path(), 1 << 20).unwrap();
    append(&mut journal, &["one", "two"]);
    let (path, good) = (journal.path.clone(), journal.len as usize);
    append(&mut journal, &["three"]);
    drop(journal);
    let whole = std::fs::read(&path).unwrap();
    for end in good..whole.len() {
        std::fs::write(&path, &whole[..end]).unwrap();
        assert_eq!(verify_chain(dir.path()).unwrap().torn_bytes as usize, end - good);
        let mut journal = Journal::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(journal.head().index, 2);
        append(&mut journal, &["four"]);
        assert_eq!(payloads(dir.path(), 1), ["one", "two", "four"]);
        if end > good {
            let kept = path.with_extension(format!("torn-{good}"));
            assert_eq!(std::fs::read(kept).unwrap(), &whole[good..end]);
        }
    }
}

#[test]
fn a_segment_file_without_its_header_held_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let head = three_segments(dir.path());
    std::fs::write(Segment::new(dir.path(), 7).path, b"HNJ").unwrap();
    verify_chain(dir.path()).unwrap();
    assert_eq!(Journal::open(dir.path(), 1).unwrap().head(), head);
}

#[test]
fn verify_tells_what_was_tampered_with() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    let paths: Vec<_> = segments(dir.path()).unwrap().into_iter().map(|s| s.path).collect();
    let second = std::fs::read(&paths[1]).unwrap();

    let mut flipped = second.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&paths[1], &flipped).unwrap();
    assert!(matches!(verify_chain(dir.path()), Err(VerifyError::Segment { .. })), "a changed byte");

    // A forger who makes checksum and own hash anew cannot make the next record's prev_hash.
    let header: &[u8; 48] = second.first_chunk().unwrap();
    let header = SegmentHeader::decode(header).unwrap();
    let mut forged = header.encode();
    let first = header.first_index;
    let hash = record::encode(first, Timestamp::UNIX_EPOCH, &header.prev_hash, b"X", &mut forged);
    record::encode(first + 1, Timestamp::UNIX_EPOCH, &hash, b"d", &mut forged);
    std::fs::write(&paths[1], &forged).unwrap();
    assert!(matches!(verify_chain(dir.path()), Err(VerifyError::Chain { .. })), "a forged segment");

    std::fs::remove_file(&paths[1]).unwrap();
    assert!(matches!(verify_chain(dir.path()), Err(VerifyError::Hole { .. })), "a missing segment");

    std::fs::write(&paths[1], &second).unwrap();
    verify_chain(dir.path()).unwrap();
}

#[test]
fn trimming_deletes_the_oldest_and_leaves_a_chain_that_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let head = three_segments(dir.path());
    let journal = Journal::open(dir.path(), 1).unwrap();
    assert!(journal.trim(250).unwrap() > 0);
    let report = verify_chain(dir.path()).unwrap();
    assert!(report.first_index > 1);
    assert_eq!(report.last_index, head.index);
    journal.trim(0).unwrap();
    assert_eq!(verify_chain(dir.path()).unwrap().last_index, head.index);
}
