//! Reads sizes by name.

use crate::{
    Problem, Source, What,
    node::{Content, Entry, Node, Scalar, clip},
    text::{self, Memory, Wrong},
};
use plimsoll_core::settings::{self, Kind, Value};
use std::{
    collections::{BTreeMap, btree_map},
    ops::RangeInclusive,
};

type Sizes = BTreeMap<String, u64>;

/// Reads a group of names, each with its size.
pub(crate) fn of_group(
    node: &Node,
    entries: &[Entry],
    range: &RangeInclusive<u64>,
    memory: Memory,
) -> Result<Sizes, Wrong> {
    // In the name of a variable, most names would be others.
    if let Source::Variable(_) = node.source {
        let what = "is one of several sizes by name: give all of them in one variable, as \
                    name=size,name=size";
        let problems = entries.iter().map(|entry| Problem {
            source: entry.source.clone(),
            key: entry.shown(),
            what: What::Other(what.to_owned()),
        });
        return Err(Wrong::Parts(problems.collect()));
    }
    read(entries, Vec::new(), range, memory)
}

/// Reads `name=size` with commas between. None if it is nothing like that.
pub(crate) fn of_text(
    source: &Source,
    text: &str,
    range: &RangeInclusive<u64>,
    memory: Memory,
) -> Option<Result<Sizes, Wrong>> {
    let parts = text.split(',').map(str::trim);
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    if !parts.is_empty() && !text.contains('=') {
        return None;
    }
    let mut entries = Vec::with_capacity(parts.len());
    let mut problems = Vec::new();
    for part in parts {
        // No size has an equals sign, but a name may.
        let Some((name, size)) = part.rsplit_once('=') else {
            let expected = "a name with a size, like name=64MiB";
            problems.push(value(source, "", clip(part), expected));
            continue;
        };
        let content = Content::Scalar(Scalar {
            text: size.trim_start().to_owned(),
            plain: true,
        });
        let source = source.clone();
        entries.push(Entry {
            key: name.trim_end().to_owned(),
            source: source.clone(),
            node: Node { source, content },
        });
    }
    Some(read(&entries, problems, range, memory))
}

/// Reads entries, which there are `problems` with already.
fn read(
    entries: &[Entry],
    mut problems: Vec<Problem>,
    range: &RangeInclusive<u64>,
    memory: Memory,
) -> Result<Sizes, Wrong> {
    if entries.len() > Kind::MAX_NAMES {
        let most = Kind::MAX_NAMES;
        return Err(Wrong::Value(format!("a group of at most {most} names")));
    }
    let mut sizes = Sizes::new();
    for Entry { key, source, node } in entries {
        let name = clip(key);
        if !Kind::admits_name(key) {
            let most = Kind::MAX_NAME_BYTES;
            let expected = format!("for names of 1 to {most} bytes without control characters");
            let shown = format!("{} for {name}", node.shown());
            problems.push(value(source, "", shown, &expected));
            continue;
        }
        match text::read(node, &settings::bytes(&mut 0_u64, range.clone()), memory) {
            Ok(Value::Bytes(size)) => match sizes.entry(key.clone()) {
                btree_map::Entry::Vacant(entry) => {
                    entry.insert(size);
                }
                // A file was refused for it.
                btree_map::Entry::Occupied(_) => problems.push(Problem {
                    source: source.clone(),
                    key: name,
                    what: What::Other("is there twice: leave one out".to_owned()),
                }),
            },
            Ok(_) => {}
            Err(Wrong::Value(expected)) => {
                problems.push(value(&node.source, &name, node.shown(), &expected));
            }
            Err(Wrong::Parts(parts)) => problems.extend(parts),
        }
    }
    match problems.is_empty() {
        true => Ok(sizes),
        false => Err(Wrong::Parts(problems)),
    }
}

/// Says what is wrong with one of the sizes, or, without a name, with something among them.
fn value(source: &Source, name: &str, value: String, expected: &str) -> Problem {
    Problem {
        source: source.clone(),
        key: name.to_owned(),
        what: What::Value {
            value,
            expected: expected.to_owned(),
        },
    }
}
