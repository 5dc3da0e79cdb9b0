use crate::{
    LoadError, Source,
    node::{Content, Entry, Node, Scalar, as_in_a_variable},
    problem::Problems,
};
use std::{env, ffi::OsString};

/// Settings in variables of the environment: `PLIMSOLL__SERVER__MAX_CONNECTIONS` is the setting
/// `max_connections` of the group `server`.
///
/// Names are in capitals; what is neither a letter nor a digit is an underscore, so that
/// `PLIMSOLL__ADAPTERS__QA_SQL__…` is about the adapter `qa-sql`. A list is its values with commas
/// between; sizes by name are `name=8MiB,other=512KiB`, where a name ends at its last equals sign,
/// and has no comma. Quotes are a part of a value. An empty variable says nothing, and a comma alone
/// is a list of none.
///
/// There may be 10 000 variables, each of 64 KiB and with 16 names.
#[derive(Clone, Debug)]
pub struct Environment {
    pub(crate) root: Node,
}

/// The longest value of a variable, in bytes.
const MAX_BYTES: usize = 64 << 10;
/// The most variables.
const MAX_VARIABLES: usize = 10_000;
/// How deep the groups of a variable may be in each other.
const MAX_DEPTH: usize = 16;

impl Environment {
    /// No variables.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            root: Node::empty(Source::Code),
        }
    }

    /// The variables of the process that begin with `prefix` and two underscores.
    ///
    /// # Errors
    ///
    /// As [`from_variables`](Self::from_variables).
    pub fn read(prefix: &str) -> Result<Self, LoadError> {
        Self::from_variables(prefix, env::vars_os())
    }

    /// Those of some variables that begin with `prefix` and two underscores. Others are ignored.
    ///
    /// # Errors
    ///
    /// Names each variable that is no UTF-8, is too long, names no setting, names that of another, or
    /// is a part of one that is a value.
    pub fn from_variables(
        prefix: &str,
        variables: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Result<Self, LoadError> {
        let prefix = format!("{prefix}__");
        let ours = variables.into_iter().filter_map(|(name, value)| {
            // A name that is no UTF-8 cannot be one of ours.
            let name = name.into().into_string().ok()?;
            name.starts_with(&prefix).then(|| (name, value.into()))
        });
        let mut ours: Vec<(String, OsString)> = ours.take(MAX_VARIABLES + 1).collect();
        let mut problems = Problems::default();
        if ours.len() > MAX_VARIABLES {
            let what = format!("there are more than {MAX_VARIABLES} variables {prefix}…");
            let source = Source::Variable(format!("{prefix}…").into());
            return Err(LoadError::one(source, what));
        }
        // So that problems and values are told in an order that does not change, and the variables
        // of a group come one after the other.
        ours.sort_by_cached_key(|(name, _)| (path_of(&name[prefix.len()..]), name.clone()));
        let mut root = Node::empty(Source::Variable(format!("{prefix}…").into()));
        for (name, value) in ours {
            let source = Source::Variable(name.as_str().into());
            let Ok(value) = value.into_string() else {
                problems.other(source, "", "is not UTF-8");
                continue;
            };
            if value.len() > MAX_BYTES {
                let most = MAX_BYTES >> 10;
                problems.other(source, "", format!("is longer than {most} KiB"));
                continue;
            }
            // Whoever starts a program passes on what is not set as empty.
            if value.is_empty() {
                continue;
            }
            let path = path_of(&name[prefix.len()..]);
            if path.len() > MAX_DEPTH || path.iter().any(String::is_empty) {
                let what =
                    format!("names no setting: write it like {prefix}SERVER__MAX_CONNECTIONS");
                problems.other(source, "", what);
                continue;
            }
            insert(&mut root, &path, value, &source, &mut problems);
        }
        problems.into_result()?;
        Ok(Self { root })
    }
}

/// The groups and the setting that a variable names.
fn path_of(name: &str) -> Vec<String> {
    name.split("__").map(as_in_a_variable).collect()
}

fn insert(
    node: &mut Node,
    path: &[String],
    value: String,
    source: &Source,
    problems: &mut Problems,
) {
    let Content::Map(entries) = &mut node.content else {
        // Those of one name come one after the other, the shorter first.
        let what = match path {
            [] => format!("names the same setting as {}: leave one out", node.source),
            _ => format!(
                "is a part of {}, which is a value: leave one out",
                node.source
            ),
        };
        problems.other(source.clone(), "", what);
        return;
    };
    let [key, rest @ ..] = path else {
        // Nothing is longer than what comes after it.
        return;
    };
    let last = entries.last_mut().filter(|entry| entry.key == *key);
    let Some(entry) = last else {
        let node = match rest {
            // A variable is a text, but an empty one says nothing.
            [] => Node {
                source: source.clone(),
                content: Content::Scalar(Scalar {
                    text: value,
                    plain: true,
                }),
            },
            rest => {
                let mut group = Node::empty(source.clone());
                insert(&mut group, rest, value, source, problems);
                group
            }
        };
        entries.push(Entry {
            key: key.clone(),
            source: source.clone(),
            node,
        });
        return;
    };
    insert(&mut entry.node, rest, value, source, problems);
}
