//! The tree that a dialect's file is read into, and the errors found in it.
//!
//! Each parser removes the keys that it knows. A key that is left is refused, with the
//! names of the tables around it.

use std::time::Duration;

use toml::{Table, Value as Toml};

/// An error in a dialect's file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {}{reason}", if .key.is_empty() { String::new() } else { format!("`{key}` ") })]
pub struct Invalid {
    pub file: String,
    /// The key, with the keys of the tables around it; empty if the whole file is
    /// meant.
    pub key: String,
    pub reason: String,
}

pub(super) type Result<T> = std::result::Result<T, Invalid>;

/// A table. A parser removes each key that it knows.
pub(super) struct Section {
    pub(super) file: String,
    pub(super) path: String,
    pub(super) table: Table,
}

impl Section {
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(super) fn invalid(&self, key: &str, reason: impl Into<String>) -> Invalid {
        Invalid {
            file: self.file.clone(),
            key: self.key(key),
            reason: reason.into(),
        }
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Toml::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.invalid(key, "must be a text")),
        }
    }

    pub(super) fn required_text(&mut self, key: &str) -> Result<String> {
        self.text(key)?
            .ok_or_else(|| self.invalid(key, "is missing"))
    }

    pub(super) fn truth(&mut self, key: &str) -> Result<Option<bool>> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Toml::Boolean(truth)) => Ok(Some(truth)),
            Some(_) => Err(self.invalid(key, "must be true or false")),
        }
    }

    pub(super) fn number(&mut self, key: &str) -> Result<Option<f64>> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Toml::Integer(number)) => Ok(Some(number as f64)),
            Some(Toml::Float(number)) => Ok(Some(number)),
            Some(_) => Err(self.invalid(key, "must be a number")),
        }
    }

    pub(super) fn whole_number(
        &mut self,
        key: &str,
        bounds: std::ops::RangeInclusive<u32>,
    ) -> Result<Option<u32>> {
        let Some(number) = self.number(key)? else {
            return Ok(None);
        };
        let (least, most) = (*bounds.start(), *bounds.end());
        if number.fract() != 0.0 || !(f64::from(least)..=f64::from(most)).contains(&number) {
            let reason = format!("must be a whole number from {least} to {most}");
            return Err(self.invalid(key, reason));
        }
        Ok(Some(number as u32))
    }

    pub(super) fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>> {
        let entry = |value| match value {
            Toml::String(text) => Some(text),
            _ => None,
        };
        match self.table.remove(key) {
            None => Ok(None),
            Some(Toml::Array(values)) => values
                .into_iter()
                .map(entry)
                .collect::<Option<_>>()
                .map(Some)
                .ok_or_else(|| self.invalid(key, "must be a list of texts")),
            Some(_) => Err(self.invalid(key, "must be a list of texts")),
        }
    }

    pub(super) fn one_of<T: Copy>(
        &mut self,
        key: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        let found = choices.iter().find(|(name, _)| *name == text);
        found.map(|(_, choice)| Some(*choice)).ok_or_else(|| {
            let names: Vec<_> = choices
                .iter()
                .map(|(name, _)| format!("`{name}`"))
                .collect();
            self.invalid(key, format!("must be {}, not `{text}`", names.join(" or ")))
        })
    }

    pub(super) fn duration(
        &mut self,
        key: &str,
        bounds: std::ops::RangeInclusive<Duration>,
    ) -> Result<Option<Duration>> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        let duration = duration(&text).map_err(|reason| self.invalid(key, reason))?;
        if !bounds.contains(&duration) {
            let (least, most) = (bounds.start(), bounds.end());
            let reason = format!("must be between {least:?} and {most:?}, not `{text}`");
            return Err(self.invalid(key, reason));
        }
        Ok(Some(duration))
    }

    /// Takes a table that must have at least one key.
    pub(super) fn section(&mut self, key: &str) -> Result<Self> {
        match self.table.remove(key) {
            None => Err(self.invalid(key, "is missing")),
            Some(Toml::Table(table)) => Ok(Self {
                file: self.file.clone(),
                path: self.key(key),
                table,
            }),
            Some(_) => Err(self.invalid(key, "must be a table")),
        }
    }

    /// Refuses the keys that nobody took.
    pub(super) fn finish(self) -> Result<()> {
        match self.table.keys().next() {
            None => Ok(()),
            Some(key) => Err(self.invalid(key, "is not known in this table")),
        }
    }
}

/// Parses `500ms`, `10s`, `5m`, `2h`, `7d`.
pub(super) fn duration(text: &str) -> std::result::Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    let number = number.parse::<u64>().ok().filter(|_| millis > 0);
    number
        .and_then(|number| number.checked_mul(millis))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            format!("has `{text}`; a duration must be like `500ms`, `10s`, `5m`, `2h` or `7d`")
        })
}
