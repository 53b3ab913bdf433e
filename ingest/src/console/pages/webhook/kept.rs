//! What the tabs of a webhook keep when one goes from one to another.

use url::form_urlencoded;

use crate::console::pages::deliveries::normal;

/// What the tabs keep of an address: the filter of deliveries and the window of statistics.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) q: String,
    pub(super) window: String,
}

impl Kept {
    /// `here`: the path and query of a page.
    pub(super) fn of(here: &str) -> Self {
        let mut kept = Self::default();
        let search = here.split_once('?').map_or("", |(_, search)| search);
        for (name, value) in form_urlencoded::parse(search.as_bytes()) {
            match &*name {
                "q" => kept.q = value.into_owned(),
                // What was typed behind the chips.
                "add" => kept.q = format!("{} {value}", kept.q),
                "window" => kept.window = value.chars().take(3).collect(),
                _ => {}
            }
        }
        kept.q = normal(&kept.q);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_and_the_window_are_kept_and_nothing_else() {
        let kept = |here: &str| {
            let Kept { q, window } = Kept::of(here);
            (q, window)
        };
        assert_eq!(
            kept("/x?q=code%3A5xx&add=since%3A1h&window=7d&cursor=whd_1&done=paused"),
            ("code:5xx since:1h".to_owned(), "7d".to_owned())
        );
        assert_eq!(kept("/x"), (String::new(), String::new()));
        assert_eq!(kept("/x?window=%3Cscript%3E").1, "<sc");
    }
}
