//! Processes whose clocks are wrong, by libfaketime.

/// Settings that make a process's wall clock wrong by this much, such as `+40s`. Its monotonic
/// clock is right.
///
/// # Panics
/// If libfaketime isn't installed.
#[must_use]
#[allow(clippy::expect_used, reason = "a test may fail")]
pub fn off_by(offset: &str) -> [(&'static str, String); 3] {
    let folders = std::fs::read_dir("/usr/lib").expect("/usr/lib is read");
    let library = folders
        .filter_map(|folder| Some(folder.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .find(|library| library.is_file())
        .expect("libfaketime is not installed: run deploy/deps.sh tests");
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", offset.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}
