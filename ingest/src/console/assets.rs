//! The stylesheet, the script and the mark: compiled in, and addressed by their hash, so
//! that browsers keep them for good and a new version has another address.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// Where assets are served.
pub const PATH: &str = "/console/_/assets";

/// A file that pages ask for.
pub struct Asset {
    pub path: String,
    name: String,
    content_type: &'static str,
    content: String,
}

impl Asset {
    fn new(name: &str, content_type: &'static str, content: &str) -> Self {
        let content = without_comments(content);
        let hash = hex::encode(&Sha256::digest(&content)[..8]);
        let name = format!("{hash}-{name}");
        Self {
            path: format!("{PATH}/{name}"),
            name,
            content_type,
            content,
        }
    }
}

pub static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("assets/console.css");
    Asset::new("console.css", "text/css; charset=utf-8", content)
});
/// The portal's other colours.
pub static ACCENTS: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("assets/accents.css");
    Asset::new("accents.css", "text/css; charset=utf-8", content)
});
pub static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("assets/console.js");
    Asset::new("console.js", "text/javascript; charset=utf-8", content)
});
pub static MARK: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("assets/horn.svg");
    Asset::new("horn.svg", "image/svg+xml", content)
});

/// Whoever reads the source reads comments; browsers needn't. Whole lines only: nothing within
/// a line is looked into.
fn without_comments(source: &str) -> String {
    let mut kept = String::with_capacity(source.len());
    let mut inside = false;
    for line in source.lines().map(str::trim) {
        if !inside && line.starts_with("/*") {
            inside = true;
        }
        if !inside && !line.is_empty() && !line.starts_with("//") {
            kept.push_str(line);
            kept.push('\n');
        }
        if inside && line.ends_with("*/") {
            inside = false;
        }
    }
    kept
}

/// `GET /console/_/assets/{name}`
pub async fn show(Path(name): Path<String>) -> Response {
    let all = [&*STYLE, &*ACCENTS, &*SCRIPT, &*MARK];
    match all.into_iter().find(|asset| asset.name == name) {
        Some(asset) => (
            [
                (header::CONTENT_TYPE, asset.content_type),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            ],
            asset.content.as_str(),
        )
            .into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assets_are_within_their_budget() {
        for (asset, most) in [(&STYLE, 25_000), (&SCRIPT, 20_000), (&MARK, 1_000)] {
            let size = asset.content.len();
            assert!(size <= most, "{}: {size} bytes of {most}", asset.name);
        }
    }
}
