//! The output of `make run`, on standard output.

use std::fmt::Display;
use std::io::Write;

/// Prints a line. It isn't an error if nobody reads it, as after `| head`.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

pub(crate) fn title(text: &str) {
    say(format_args!("\n{text}"));
}
