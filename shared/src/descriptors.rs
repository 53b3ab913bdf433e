//! File descriptors. Each connection needs one, and a process may have only so many.
//!
//! A process that has none left can't connect to an endpoint. That is no endpoint's fault.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Whether an error says that this process, or the machine, has no free file descriptor.
pub(crate) fn are_exhausted(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

/// Raises the soft limit to the hard limit, which every process may do. Warns if the process
/// may need more descriptors than that.
pub fn provide(needed: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // If the system refuses this, the soft limit stays.
    let _ = setrlimit(Resource::Nofile, raised);
    if let Some(limit) = getrlimit(Resource::Nofile).current
        && limit < needed as u64
    {
        warn!(
            limit,
            needed,
            "this process may have too few file descriptors for its connections; \
             raise the limit (`LimitNOFILE=` of systemd, `ulimit -Hn`) or lower CONCURRENCY. \
             Without a free descriptor deliveries are deferred"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lack_of_descriptors_counts_as_one() {
        for errno in [Errno::MFILE, Errno::NFILE] {
            assert!(are_exhausted(&io::Error::from(errno)));
        }
        assert!(!are_exhausted(&io::Error::from(Errno::CONNREFUSED)));
        assert!(!are_exhausted(&io::Error::other("no descriptor")));
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_limit() {
        let hard = getrlimit(Resource::Nofile).maximum;
        provide(1);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!((limit.current, limit.maximum), (hard, hard));
    }
}
