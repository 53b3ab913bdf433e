//! Ends the servers when their owner has ended, however it ended.
//!
//! A shell waits on a pipe whose other end only the owner has. The kernel closes
//! that end even after `kill -9`. `PR_SET_PDEATHSIG` would not do: it fires when the *thread*
//! that started a server ends, and runtimes end threads; children don't inherit it;
//! and the child processes of PostgreSQL and Erlang leave their process group as well.
//!
//! The watchdog runs as the servers' user, so it can't signal processes of other users. It
//! finds the servers by the rules of `process`. Its standard output is the folder's lock:
//! no servers start there before the watchdog has ended.

use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::home::Home;
use super::process;

/// The arguments: `$1` is the mark, `$2` the folder above PostgreSQL's data folders.
///
/// `-ef` compares folders by device and inode. A killed PostgreSQL leaves a SysV
/// shared memory segment of 56 bytes, whose id is on line 7 of `postmaster.pid`. The
/// next start on the same data would remove it, but there may be none.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
while read -r _; do :; done
ours() {
    grep -lzxF -- "$PAIR=$1" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
    for data in "$2"/data-*; do
        [ -d "$data" ] || continue
        for process in /proc/[0-9]*; do
            [ "$process/cwd" -ef "$data" ] || continue
            case $(readlink "$process/exe") in
            */postgres | */postgres\ *) echo "${process#/proc/}" ;;
            esac
        done
    done
}
round=0
while [ "$round" -lt 200 ]; do
    pids=$(ours "$1" "$2")
    [ -n "$pids" ] || break
    kill -KILL $pids 2>/dev/null
    sleep 0.05
    round=$((round + 1))
done
for data in "$2"/data-*; do
    [ -f "$data/postmaster.pid" ] || continue
    ipcrm -m "$(sed -n '7s/.* //p' "$data/postmaster.pid")" 2>/dev/null
done
exit 0
"#;

pub(super) struct Watchdog {
    shell: Child,
    /// Closing it tells the watchdog to work.
    leash: Option<ChildStdin>,
}

impl Watchdog {
    pub(super) fn start(home: &Home) -> anyhow::Result<Self> {
        let mut shell = home
            .unmarked_command(Path::new("/bin/sh"))
            .args(["-c", SCRIPT, "posthorn-watchdog", &home.mark()])
            .arg(home.folder().join("postgres"))
            .env("PAIR", process::PAIR)
            .stdin(Stdio::piped())
            .stdout(home.share_lock()?)
            .spawn()
            .context("starting the watchdog")?;
        let leash = shell.stdin.take();
        Ok(Self { shell, leash })
    }

    /// Tells the watchdog to look for leftovers once more and to end.
    pub(super) async fn dismiss(mut self) {
        self.leash = None;
        // Ten seconds at the very most.
        for _ in 0..1200 {
            if !matches!(self.shell.try_wait(), Ok(None)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.leash = None;
        let deadline = Instant::now() + Duration::from_secs(12);
        while matches!(self.shell.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
}
