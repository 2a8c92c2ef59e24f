//! Checksums of a file, page by page, so that what is damaged can be named. A page of zeros has the sum 0, and holes are not read.

use std::fs::File;
use std::io;

use crate::sparse;

pub const PAGE_BYTES: usize = 4096;
/// Bytes of one sum: the first ones of the page's BLAKE3, as a little-endian number.
const SUM_BYTES: usize = 8;

/// A page that is not as it was, and the byte in the file at which it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged(pub u64);

fn sum(page: &[u8]) -> u64 {
    if page.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let hash = blake3::hash(page);
    let (first, _) = hash.as_bytes().split_at(SUM_BYTES);
    // 0 is taken.
    first.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)).max(1)
}

/// The sums of a file, one after the other.
pub fn of(file: &File) -> io::Result<Vec<u8>> {
    let count = file.metadata()?.len().div_ceil(PAGE_BYTES as u64) as usize;
    let mut sums = vec![0; count * SUM_BYTES];
    sparse::each_page(file, |number, page| {
        let at = number as usize * SUM_BYTES;
        // A file that grows meanwhile is not what was asked about.
        if let Some(place) = sums.get_mut(at..at + SUM_BYTES) {
            place.copy_from_slice(&sum(page).to_le_bytes());
        }
        Ok(())
    })?;
    Ok(sums)
}

/// The first page that is not as its sum says.
pub fn damaged(file: &File, sums: &[u8]) -> io::Result<Option<Damaged>> {
    let sums = sums.as_chunks::<SUM_BYTES>().0;
    let wanted = |number: u64| sums.get(number as usize).map_or(0, |sum| u64::from_le_bytes(*sum));
    let mut next = 0;
    let mut found = None;
    let hole = |range: std::ops::Range<u64>| range.into_iter().find(|number| wanted(*number) != 0);
    sparse::each_page(file, |number, page| {
        if found.is_none() {
            // A hole where there was something is damage as well.
            found = hole(next..number).or((sum(page) != wanted(number)).then_some(number));
        }
        next = number + 1;
        Ok(())
    })?;
    let found = found.or_else(|| hole(next..sums.len() as u64));
    Ok(found.map(|number| Damaged(number * PAGE_BYTES as u64)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn file(pages: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len((pages.len() * PAGE_BYTES) as u64 - 100).unwrap();
        for (index, byte) in pages.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            let bytes = if index + 1 == pages.len() { PAGE_BYTES - 100 } else { PAGE_BYTES };
            file.write_all_at(&vec![*byte; bytes], (index * PAGE_BYTES) as u64).unwrap();
        }
        file
    }

    #[test]
    fn the_first_page_that_differs_is_named() {
        let good = file(&[0, 1, 0, 0, 2, 3]);
        let sums = of(&good).unwrap();
        assert_eq!(sums.len(), 6 * 8);
        assert_eq!(damaged(&good, &sums).unwrap(), None);
        let page = |number: u64| Some(Damaged(number * PAGE_BYTES as u64));
        assert_eq!(damaged(&file(&[0, 1, 0, 0, 2, 4]), &sums).unwrap(), page(5));
        assert_eq!(damaged(&file(&[0, 9, 0, 0, 9, 3]), &sums).unwrap(), page(1));
        assert_eq!(
            damaged(&file(&[0, 1, 7, 0, 2, 3]), &sums).unwrap(),
            page(2),
            "something where nothing was"
        );
        assert_eq!(damaged(&file(&[0, 1, 0, 0, 0, 3]), &sums).unwrap(), page(4), "a hole in the middle");
        assert_eq!(damaged(&file(&[0, 1, 0, 0, 2, 0]), &sums).unwrap(), page(5), "a hole at the end");
    }

    #[test]
    fn zeros_and_holes_are_the_same() {
        let sums = of(&file(&[0, 1, 0, 2])).unwrap();
        let written = file(&[1, 1, 1, 2]);
        written.write_all_at(&[0; PAGE_BYTES], 0).unwrap();
        written.write_all_at(&[0; PAGE_BYTES], 2 * PAGE_BYTES as u64).unwrap();
        assert_eq!(damaged(&written, &sums).unwrap(), None);
    }
}
