//! The output of `make run`, on standard output.

use std::fmt::Display;
use std::io::Write;

/// Prints a line. Nobody may be reading any more, as after `| head`: that is no
/// reason to fail.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a heading.
pub(crate) fn title(text: &str) {
    say(format_args!("\n{text}"));
}
