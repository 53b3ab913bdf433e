//! Places in files, for errors: file, line, and the member's path.
//!
//! Line numbers are looked up when something is wrong, by reading the file again
//! with positions. A place also knows the values that stand at it, so that no
//! error repeats one: errors end up in CI logs, and a value in the wrong place
//! may be a secret.

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::yaml::from_yaml;

/// The shortest value that is left out of an error, in bytes: every word has an `a`.
const SHORTEST: usize = 3;

pub(super) struct File {
    name: String,
    text: String,
    /// Its documents; none if they can't be read with positions.
    documents: OnceLock<Vec<Spanned<Tree>>>,
}

impl File {
    pub(super) fn new(name: String, text: String) -> Arc<Self> {
        Arc::new(Self {
            name,
            text,
            documents: OnceLock::new(),
        })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The member at this path; if there is none, the nearest one around it.
    fn node(&self, document: usize, path: &str) -> Option<&Spanned<Tree>> {
        let documents = self
            .documents
            .get_or_init(|| from_yaml(&self.text).unwrap_or_default());
        let mut node = documents.get(document)?;
        let mut path = path;
        while let Some((inner, rest)) = node.value.step(path) {
            (node, path) = (inner, rest);
        }
        Some(node)
    }
}

/// A document with nothing but its shape, its texts and its positions.
pub(super) enum Tree {
    Text(String),
    /// A number, a truth value, or nothing.
    Other,
    List(Vec<Spanned<Tree>>),
    Members(Vec<(String, Spanned<Tree>)>),
}

impl Tree {
    /// Follows the first step of a path; answers what is there, and the rest.
    fn step<'t, 'p>(&'t self, path: &'p str) -> Option<(&'t Spanned<Tree>, &'p str)> {
        match self {
            Self::List(entries) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                Some((entries.get(index.parse::<usize>().ok()?)?, rest))
            }
            Self::Members(members) => {
                let path = path.strip_prefix('.').unwrap_or(path);
                // A member's name may have dots and brackets itself.
                let fits = |name: &str| {
                    let rest = path.strip_prefix(name)?;
                    (rest.is_empty() || rest.starts_with(['.', '['])).then_some(rest)
                };
                members
                    .iter()
                    .filter_map(|(name, value)| Some((value, fits(name)?)))
                    .min_by_key(|(_, rest)| rest.len())
            }
            Self::Text(_) | Self::Other => None,
        }
    }

    fn texts<'t>(&'t self, found: &mut Vec<&'t str>) {
        match self {
            Self::Text(text) => found.push(text),
            Self::Other => {}
            Self::List(entries) => entries.iter().for_each(|entry| entry.value.texts(found)),
            Self::Members(members) => {
                members
                    .iter()
                    .for_each(|(_, value)| value.value.texts(found));
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyTree)
    }
}

struct AnyTree;

impl<'de> Visitor<'de> for AnyTree {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_none<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_element()? {
            list.push(entry);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = entries.next_entry()? {
            members.push(member);
        }
        Ok(Tree::Members(members))
    }
}

/// A place in a file: `webhooks.yaml:12: tenants[0].webhooks[2].url`.
#[derive(Clone)]
pub struct Place {
    file: Arc<File>,
    /// Its index, and whether there are others.
    document: (usize, bool),
    path: String,
}

impl Place {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self {
            file,
            document: (0, false),
            path: String::new(),
        }
    }

    /// One of several documents of a file.
    pub(super) fn in_document(&self, index: usize) -> Self {
        Self {
            document: (index, true),
            ..self.clone()
        }
    }

    /// A member of what is here, or one of that.
    #[must_use]
    pub fn at(&self, member: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self {
            path: format!("{}{dot}{member}", self.path),
            ..self.clone()
        }
    }

    pub(super) fn entry(&self, list: &str, index: usize) -> Self {
        self.at(&format!("{list}[{index}]"))
    }

    /// What is wrong here, without the values that stand here.
    pub(super) fn without_values(&self, reason: &str) -> String {
        let mut texts = Vec::new();
        if let Some(node) = self.file.node(self.document.0, &self.path) {
            node.value.texts(&mut texts);
        }
        without(reason, texts)
    }
}

/// The text without these, the longest first: one may be in another.
pub(crate) fn without<'t>(text: &str, values: impl IntoIterator<Item = &'t str>) -> String {
    let long_enough = |value: &&str| value.len() >= SHORTEST;
    let mut values: Vec<_> = values.into_iter().filter(long_enough).collect();
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    values
        .into_iter()
        .fold(text.to_owned(), |text, value| text.replace(value, "…"))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file.name)?;
        let (document, several) = self.document;
        match self.file.node(document, &self.path) {
            Some(node) if node.referenced.line() > 0 => write!(f, ":{}", node.referenced.line())?,
            _ if several => write!(f, ", document {}", document + 1)?,
            _ => {}
        }
        if self.path.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.path)
    }
}
