//! Runs libFuzzer on the target that `POSTHORN_FUZZ_TARGET` names: see `make fuzz`.

#![no_main]

use std::sync::OnceLock;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("POSTHORN_FUZZ_TARGET").unwrap_or_default();
        match posthorn_fuzz::target(&name) {
            Some(target) => target,
            None => panic!("POSTHORN_FUZZ_TARGET: there is no target `{name}`"),
        }
    });
    target(data);
});
