//! How the code is built, where the compiler doesn't say: no circles of imports.
//!
//! Two modules that import each other can only be read, tested and changed together. So
//! within each crate imports have a direction. A module is a file. Its imports are the
//! paths in it that begin with `crate::` or `super::` or with a child module's name. What
//! its tests import doesn't count, and a `mod` declaration is no import.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The crates without circles.
const CRATES: [&str; 3] = ["shared", "dispatcher", "ingest"];

/// A module's path within its crate. The crate's root is the empty one.
type Module = Vec<String>;

#[test]
fn no_crate_has_a_circle_of_imports() {
    for name in CRATES {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(name)
            .join("src");
        let mut modules = BTreeMap::new();
        read_modules(&source, &Vec::new(), &mut modules);
        assert!(modules.len() > 5, "{name} has {} modules", modules.len());
        let imports: BTreeMap<_, _> = modules
            .iter()
            .map(|(module, text)| (module.clone(), imports(module, text, &modules)))
            .collect();
        let circles = circles(&imports);
        assert!(
            circles.is_empty(),
            "{name}: these import each other: {circles:?}"
        );
    }
}

#[test]
fn a_circle_is_found_through_groups_parents_and_children() {
    let modules = [
        ("", "pub mod a; mod b;"),
        ("a", "use crate::{b::{self, X}, c};"),
        ("b", "fn f() { child::g(); } // crate::lone"),
        ("b::child", "use super::super::a::A;"),
        ("c", "use crate::lone::Y;"),
        ("lone", ""),
    ];
    let modules: BTreeMap<Module, String> = modules
        .into_iter()
        .map(|(path, text)| (parse(path), without_comments_and_tests(text)))
        .collect();
    let imports: BTreeMap<_, _> = modules
        .iter()
        .map(|(module, text)| (module.clone(), imports(module, text, &modules)))
        .collect();
    assert_eq!(circles(&imports), [["a", "b", "b::child"]]);
}

fn parse(path: &str) -> Module {
    let parts = path.split("::").filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

/// Reads the modules in a folder and its subfolders.
fn read_modules(folder: &Path, of: &Module, modules: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let child = || of.iter().cloned().chain([name.clone()]).collect();
        if path.is_dir() {
            read_modules(&path, &child(), modules);
            continue;
        }
        let module = match name.as_str() {
            "main" | "tests" => continue,
            "lib" | "mod" => of.clone(),
            _ => child(),
        };
        let text = fs::read_to_string(&path).unwrap();
        modules.insert(module, without_comments_and_tests(&text));
    }
}

fn without_comments_and_tests(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let lines = code.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules that a module imports.
fn imports(module: &Module, text: &str, modules: &BTreeMap<Module, String>) -> BTreeSet<Module> {
    let mut found = Vec::new();
    let mut rest = text;
    let mut before = ' ';
    while let Some(next) = rest.chars().next() {
        let word: String = rest
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if word.is_empty() {
            before = next;
            rest = &rest[next.len_utf8()..];
            continue;
        }
        let begins_a_path = before != ':' && rest[word.len()..].starts_with("::");
        let child = || -> Module { module.iter().cloned().chain([word.clone()]).collect() };
        rest = &rest[word.len()..];
        before = ' ';
        if begins_a_path && word == "crate" {
            paths(&rest[2..], &Vec::new(), &mut found);
        } else if begins_a_path && word == "super" {
            let parent = module[..module.len().saturating_sub(1)].to_vec();
            paths(&rest[2..], &parent, &mut found);
        } else if begins_a_path && modules.contains_key(&child()) {
            paths(&rest[2..], &child(), &mut found);
        }
    }
    // Of a path to a type or a function: the module that has it.
    let mut imported: BTreeSet<Module> = found
        .into_iter()
        .map(|mut path| {
            while !modules.contains_key(&path) {
                path.pop();
            }
            path
        })
        .collect();
    imported.remove(module);
    imported
}

/// The paths that a text begins with, after the `::` of `prefix`. There are several if it
/// begins with `{`.
fn paths(text: &str, prefix: &Module, found: &mut Vec<Module>) {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        let (mut depth, mut begin) = (0, 0);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    paths(&group[begin..at], prefix, found);
                    begin = at + 1;
                    if c == '}' {
                        return;
                    }
                }
                _ => {}
            }
        }
        return;
    }
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let mut path = prefix.clone();
    match &text[..end] {
        "" | "self" => {}
        "super" => drop(path.pop()),
        name => path.push(name.to_owned()),
    }
    match text[end..].trim_start().strip_prefix("::") {
        Some(rest) => paths(rest, &path, found),
        None => found.push(path),
    }
}

/// The modules that reach each other, circle by circle, sorted.
fn circles(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<String>> {
    let reached: BTreeMap<_, _> = imports
        .keys()
        .map(|module| (module, reached_from(module, imports)))
        .collect();
    let mut circles = BTreeSet::new();
    for (module, from_here) in &reached {
        if from_here.contains(*module) {
            let circle = from_here
                .iter()
                .filter(|other| reached[other].contains(*module));
            circles.insert(circle.map(|module| module.join("::")).collect());
        }
    }
    circles.into_iter().collect()
}

fn reached_from(module: &Module, imports: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<Module> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&Module> = imports[module].iter().collect();
    while let Some(module) = next.pop() {
        if reached.insert(module.clone()) {
            next.extend(&imports[module]);
        }
    }
    reached
}
