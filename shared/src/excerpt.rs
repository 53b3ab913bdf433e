//! Shortens and cleans text from outside, for rows, logs and answers.
//!
//! An endpoint's certificate, a client's JSON or a name that doesn't resolve can make
//! an error message as long as its author likes. The message can also contain
//! characters that a terminal, a log or PostgreSQL interprets.

/// The longest error text, in bytes, of an error that an outsider can influence.
pub const MAX_ERROR: usize = 1024;

/// The beginning of `text`, in at most `most` bytes, which must be three or more. If
/// `text` was longer, the result ends with an ellipsis. Control characters become
/// U+FFFD.
#[must_use]
pub fn excerpt(text: &str, most: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(most));
    // How many bytes are kept if an ellipsis must follow.
    let mut kept = 0;
    for c in text.chars() {
        let c = if c.is_control() { '\u{fffd}' } else { c };
        if shown.len() + c.len_utf8() > most {
            shown.truncate(kept);
            shown.push('…');
            break;
        }
        shown.push(c);
        if shown.len() + '…'.len_utf8() <= most {
            kept = shown.len();
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_text_stays_and_long_text_ends_between_characters() {
        assert_eq!(
            excerpt("invalid peer certificate", 64),
            "invalid peer certificate"
        );
        assert_eq!(excerpt("ääää", 8), "ääää");
        assert_eq!(excerpt("ääääää", 8), "ää…");
        assert_eq!(
            excerpt("a\nb\0c\u{1b}[31m", 64),
            "a\u{fffd}b\u{fffd}c\u{fffd}[31m"
        );
    }

    proptest! {
        #[test]
        fn no_text_is_longer_than_it_may_be(text in "(?s).{0,300}", most in 3_usize..200) {
            let shown = excerpt(&text, most);
            prop_assert!(shown.len() <= most, "{} bytes", shown.len());
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}
