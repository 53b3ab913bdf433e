//! The catalogues that Posthorn comes with: the event types of five systems, under the names of their dialects.
//!
//! They are the files of `ingest/catalogues`, in the form that the API imports. They
//! have examples but no schemas, so importing one makes no event invalid.

/// A catalogue to be imported by name.
#[derive(Debug, Clone, Copy)]
pub struct Collection {
    /// What it is imported by.
    pub name: &'static str,
    pub text: &'static str,
}

/// All of them.
pub const COLLECTIONS: [Collection; 5] = [
    Collection {
        name: "auraconnect",
        text: include_str!("../../catalogues/auraconnect.json"),
    },
    Collection {
        name: "brainsait",
        text: include_str!("../../catalogues/brainsait.json"),
    },
    Collection {
        name: "corp-astro",
        text: include_str!("../../catalogues/corp-astro.json"),
    },
    Collection {
        name: "jossiedb",
        text: include_str!("../../catalogues/jossiedb.json"),
    },
    Collection {
        name: "rishi",
        text: include_str!("../../catalogues/rishi.json"),
    },
];

pub fn collection(name: &str) -> Option<Collection> {
    COLLECTIONS
        .into_iter()
        .find(|collection| collection.name == name)
}

/// Their names, to choose from.
pub fn names() -> String {
    COLLECTIONS.map(|collection| collection.name).join(", ")
}
