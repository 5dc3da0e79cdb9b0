//! Reads YAML into nodes with their places, within limits that a file from anywhere may meet.

use crate::{
    LoadError, Source,
    node::{Content, Entry, Node, Scalar, clip},
    problem::Problems,
};
use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use std::{borrow::Cow, collections::HashMap, sync::Arc};

/// The largest file, in bytes.
pub(crate) const MAX_BYTES: u64 = 4 << 20;
/// How deep lists and groups may be in each other.
const MAX_DEPTH: usize = 32;
/// The most values in a file, once aliases are replaced by what they stand for.
const MAX_VALUES: usize = 200_000;
/// The most text in a file, in bytes, once aliases are replaced by what they stand for.
const MAX_TEXT: usize = 8 << 20;

/// Reads one document. An empty one has no settings.
pub(crate) fn parse(file: &Arc<str>, text: &str) -> Result<Node, LoadError> {
    let mut builder = Builder {
        file,
        open: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        placed: Size::default(),
        anchored: Size::default(),
        problems: Problems::default(),
    };
    let whole = builder.whole();
    if text.len() as u64 > MAX_BYTES {
        return Err(LoadError::one(whole, too_large()));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::new_from_str(text);
    let mut documents = 0;
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let mark = error.marker();
                let source = builder.at(mark.line(), mark.col());
                // The parser looks ahead of us, and has a limit of its own.
                let what = match error.info() {
                    "recursion limit exceeded" => too_deep(),
                    info => format!("is no YAML: {}", clip(info)),
                };
                builder.problems.other(source, "", what);
                break;
            }
        };
        if let Event::DocumentStart(_) = event {
            documents += 1;
            if documents > 1 {
                let source = builder.source(span);
                let what = "is a second document in the file: put everything into one";
                builder.problems.other(source, "", what);
                break;
            }
        }
        if let Event::StreamEnd = event {
            break;
        }
        if builder.take(event, span).is_none() {
            break;
        }
    }
    let Builder { root, problems, .. } = builder;
    problems.into_result()?;
    Ok(match root {
        Some(root) => match &root.content {
            Content::Scalar(scalar) if scalar.is_null() => Node::empty(root.source),
            _ => root,
        },
        None => Node::empty(whole),
    })
}

pub(crate) fn too_large() -> String {
    format!("is larger than {} MiB", MAX_BYTES >> 20)
}

fn too_deep() -> String {
    format!("is deeper than {MAX_DEPTH} lists and groups in each other")
}

struct Builder<'a> {
    file: &'a Arc<str>,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Anchored>,
    placed: Size,
    /// What is kept for aliases that may come, which takes memory whether they come or not.
    anchored: Size,
    problems: Problems,
}

/// How much a node is, with all that is in it.
#[derive(Clone, Copy, Default)]
struct Size {
    values: usize,
    text: usize,
}

impl Size {
    const ONE: Self = Self { values: 1, text: 0 };

    fn add(&mut self, more: Self) {
        self.values = self.values.saturating_add(more.values);
        self.text = self.text.saturating_add(more.text);
    }

    /// What there is too much of.
    fn excess(self) -> Option<String> {
        match self {
            Self { values, .. } if values > MAX_VALUES => Some(format!("{MAX_VALUES} values")),
            Self { text, .. } if text > MAX_TEXT => Some(format!("{} MiB of text", MAX_TEXT >> 20)),
            _ => None,
        }
    }
}

/// A list or group that has not ended.
struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value comes next, in a group. None of it where there is a problem with it.
    key: Option<(Option<String>, Source)>,
    size: Size,
    /// The keys that were there already, and where.
    keys: HashMap<String, Source>,
}

struct Anchored {
    node: Node,
    size: Size,
}

impl Builder<'_> {
    fn at(&self, line: usize, column: usize) -> Source {
        Source::File {
            file: self.file.clone(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column + 1).unwrap_or(u32::MAX),
        }
    }

    fn source(&self, span: Span) -> Source {
        self.at(span.start.line(), span.start.col())
    }

    fn whole(&self) -> Source {
        Source::File {
            file: self.file.clone(),
            line: 0,
            column: 0,
        }
    }

    /// Takes one event. None if no more should come.
    fn take(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let source = self.source(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = self.scalar(text, style, tag.as_deref(), &source);
                let size = Size {
                    values: 1,
                    text: scalar.text.len(),
                };
                self.count(size, &source)?;
                let content = Content::Scalar(scalar);
                self.place(Node { source, content }, anchor, size)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), &source);
                self.open(Content::List(Vec::new()), source, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), &source);
                self.open(Content::Map(Vec::new()), source, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Open {
                    node, anchor, size, ..
                } = self.open.pop()?;
                self.place(node, anchor, size)
            }
            Event::Alias(anchor) => {
                let Some(known) = self.anchors.get(&anchor) else {
                    let what = "is an alias for something that it is itself a part of";
                    self.problems.other(source, "", what);
                    return None;
                };
                let size = known.size;
                // Counted before it is copied: a few lines can make very much of it.
                self.count(size, &source)?;
                let known = self.anchors.get(&anchor)?;
                let node = known.node.clone();
                self.place(node, 0, size)
            }
            _ => Some(()),
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
        source: &Source,
    ) -> Scalar {
        let is_str = |tag: &Tag| tag.is_yaml_core_schema() && tag.suffix == "str";
        let tagged = tag.is_some_and(is_str);
        if !tagged {
            self.refuse_tag(tag, source);
        }
        Scalar {
            text: text.into_owned(),
            plain: style == ScalarStyle::Plain && !tagged,
        }
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, source: &Source) {
        if let Some(tag) = tag {
            let tag = clip(&format!("{}{}", tag.handle, tag.suffix));
            let what = format!("has the tag {tag}, which means nothing here: leave it out");
            self.problems.other(source.clone(), "", what);
        }
    }

    fn open(&mut self, content: Content, source: Source, anchor: usize) -> Option<()> {
        if self.open.len() >= MAX_DEPTH {
            self.problems.other(source, "", too_deep());
            return None;
        }
        self.count(Size::ONE, &source)?;
        self.open.push(Open {
            node: Node { source, content },
            anchor,
            key: None,
            size: Size::ONE,
            keys: HashMap::new(),
        });
        Some(())
    }

    /// Counts what is about to be placed. None if it is too much.
    fn count(&mut self, more: Size, source: &Source) -> Option<()> {
        self.placed.add(more);
        let Some(excess) = self.placed.excess() else {
            return Some(());
        };
        let what = format!("makes more than {excess}, aliases included");
        self.problems.other(source.clone(), "", what);
        None
    }

    /// Puts a node where it belongs: as a key or a value of what is open, or as the whole.
    fn place(&mut self, node: Node, anchor: usize, size: Size) -> Option<()> {
        if anchor > 0 {
            self.anchored.add(size);
            if let Some(excess) = self.anchored.excess() {
                let what = format!("makes more than {excess} under anchors");
                self.problems.other(node.source, "", what);
                return None;
            }
            let node = node.clone();
            self.anchors.insert(anchor, Anchored { node, size });
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        open.size.add(size);
        match &mut open.node.content {
            Content::List(items) => items.push(node),
            Content::Map(entries) => match open.key.take() {
                None => {
                    let key = key_of(&node, &mut open.keys, &mut self.problems);
                    open.key = Some((key, node.source));
                }
                Some((Some(key), source)) => entries.push(Entry { key, source, node }),
                Some((None, _)) => {}
            },
            Content::Scalar(_) => {}
        }
        Some(())
    }
}

/// The key that a node is, unless there is a problem with it.
fn key_of(
    node: &Node,
    keys: &mut HashMap<String, Source>,
    problems: &mut Problems,
) -> Option<String> {
    let Content::Scalar(Scalar { text, plain }) = &node.content else {
        problems.other(
            node.source.clone(),
            "",
            "is a list or a group where a key must be",
        );
        return None;
    };
    if *plain && text == "<<" {
        let what = "is a merge key, which YAML 1.2 does not have: use an alias or a preset";
        problems.other(node.source.clone(), "", what);
        return None;
    }
    if let Some(before) = keys.insert(text.clone(), node.source.clone()) {
        let what = format!("is there twice, first at {before}");
        problems.other(node.source.clone(), clip(text), what);
        return None;
    }
    Some(text.clone())
}
