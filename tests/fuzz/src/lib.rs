//! Fuzz targets: pure code that reads input from outside.
//!
//! A target takes any bytes and must return: no panic, no overflow, no endless loop. Where
//! more can be promised, the target asserts it. `make test` runs the corpus
//! (`tests/fuzz/corpus/<target>/`) and damaged copies of it. `make fuzz` searches for more
//! inputs with libFuzzer, guided by coverage.
//!
//! The corpus has the inputs that reached new code, and those that once failed. The
//! latter have descriptive names.

use std::fs;
use std::path::PathBuf;

mod targets;

pub use targets::{TARGETS, Target};

/// The target of a name.
#[must_use]
pub fn target(name: &str) -> Option<fn(&[u8])> {
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    found.map(|(_, run)| *run)
}

/// A target's corpus, always in the same order.
#[must_use]
pub fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "corpus", name]
        .iter()
        .collect();
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| fs::read(file).unwrap_or_default())
        .collect()
}

/// A damaged copy: bytes are changed, cut, doubled, or taken from another input.
#[must_use]
pub fn damaged(input: &[u8], other: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut damaged = input.to_vec();
    for _ in 0..random.usize(1..4) {
        let at = random.usize(0..=damaged.len());
        let to = random.usize(at..=damaged.len());
        match random.u8(0..6) {
            0 => damaged.truncate(to),
            1 => drop(damaged.drain(at..to)),
            2 => damaged.insert(at, random.u8(..)),
            3 if at < damaged.len() => damaged[at] ^= 1 << random.u8(0..8),
            4 => {
                let part = damaged[at..to].to_vec();
                damaged.splice(at..at, part);
            }
            _ => {
                let from = random.usize(0..=other.len());
                let part = &other[from..random.usize(from..=other.len())];
                damaged.splice(at..to, part.iter().copied());
            }
        }
        damaged.truncate(64 * 1024);
    }
    damaged
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Damaged copies per target. All targets together take seconds.
    const DAMAGED: usize = 500;

    #[test]
    fn input_from_outside_is_read_or_refused() {
        for (name, run) in TARGETS {
            let corpus = corpus(name);
            assert!(!corpus.is_empty(), "{name} has no corpus");
            corpus.iter().for_each(|input| run(input));
            let mut random = fastrand::Rng::with_seed(4711);
            for _ in 0..DAMAGED {
                let input = &corpus[random.usize(..corpus.len())];
                let other = &corpus[random.usize(..corpus.len())];
                run(&damaged(input, other, &mut random));
            }
        }
    }
}
