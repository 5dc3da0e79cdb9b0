//! `profile.proto` of github.com/google/pprof.

use super::{
    HeapProfile, Stack, Weight,
    mappings::{self, Mapping},
    symbols::{self, Function},
};
use flate2::{Compression, write::GzEncoder};
use prost::Message;
use std::{
    collections::{HashMap, HashSet},
    fmt,
    io::Write as _,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// The longest that a profile may be, before it is compressed.
const MAX_BYTES: usize = 16 << 20;

/// A profile would be longer than it may be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProfileTooLarge {
    max: usize,
}

impl fmt::Display for ProfileTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the heap profile is longer than {} bytes: sample less, by a longer mean",
            self.max
        )
    }
}

impl std::error::Error for ProfileTooLarge {}

// === The messages, as far as they are used ===

#[derive(Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<ProfileMapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<ProfileFunction>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

/// Strings are places in the table of them, here and below.
#[derive(Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Message)]
struct Sample {
    /// The innermost first.
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Message)]
struct ProfileMapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(uint64, tag = "4")]
    file_offset: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(int64, tag = "6")]
    build_id: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    /// The innermost of what was inlined first.
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Message)]
struct ProfileFunction {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

// === Writing ===

pub(super) fn write(profile: &HeapProfile) -> Result<Vec<u8>, ProfileTooLarge> {
    write_within(profile, MAX_BYTES)
}

fn write_within(profile: &HeapProfile, max: usize) -> Result<Vec<u8>, ProfileTooLarge> {
    let mut table = Table::new(max);
    let samples = samples(profile);
    let locations = table.locations(&samples)?;
    let message = Profile {
        sample: samples
            .iter()
            .map(|(stack, [objects, bytes])| Sample {
                location_id: locations.of(stack),
                value: vec![*objects, *bytes],
                label: table.labels(stack),
            })
            .collect(),
        sample_type: vec![
            table.value_type("inuse_objects", "count"),
            table.value_type("inuse_space", "bytes"),
        ],
        period_type: Some(table.value_type("space", "bytes")),
        period: whole(profile.mean_bytes),
        default_sample_type: table.strings.place("inuse_space"),
        time_nanos: nanos(profile.taken),
        duration_nanos: profile.window.map_or(0, |window| whole(window.as_nanos())),
        comment: table.comments(profile),
        mapping: table.mappings,
        location: table.locations,
        function: table.functions,
        string_table: table.strings.table,
    };
    if message.encoded_len() > max {
        return Err(ProfileTooLarge { max });
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    // A vector takes all that is written to it.
    let written = gzip.write_all(&message.encode_to_vec());
    let finished = written.and_then(|()| gzip.finish());
    finished.map_err(|_| ProfileTooLarge { max })
}

/// The samples that stand for something, in whole objects and bytes; those of the most bytes first.
fn samples(profile: &HeapProfile) -> Vec<(&Stack, [i64; 2])> {
    let whole = |weight: &Weight| [weight.objects, weight.bytes].map(|it| it.round() as i64);
    let samples = profile.stacks.iter();
    let mut samples: Vec<_> = samples
        .map(|(stack, weight)| (stack, whole(weight)))
        .filter(|(_, values)| *values != [0, 0])
        .collect();
    // By their frames as well, so that the same profile is written in the same way.
    samples.sort_by(|(stack, [_, bytes]), (other, [_, others])| {
        let larger = others.unsigned_abs().cmp(&bytes.unsigned_abs());
        let key = |stack: &Stack| (stack.groups, stack.retained);
        larger
            .then_with(|| stack.frames.cmp(&other.frames))
            .then_with(|| key(stack).cmp(&key(other)))
    });
    samples
}

/// What samples refer to by number.
struct Table {
    max: usize,
    strings: Strings,
    mappings: Vec<ProfileMapping>,
    locations: Vec<Location>,
    functions: Vec<ProfileFunction>,
}

/// Each string once; the first is empty.
struct Strings {
    table: Vec<String>,
    places: HashMap<String, i64>,
    bytes: usize,
}

/// Which locations addresses have.
#[derive(Default)]
struct Locations {
    ids: HashMap<usize, u64>,
    /// Those in functions that do nothing but allocate.
    allocating: HashSet<u64>,
}

impl Locations {
    /// Those of a stack, from where it begins to allocate.
    fn of(&self, stack: &Stack) -> Vec<u64> {
        // All of them are there.
        let ids = stack.frames.iter().filter_map(|frame| self.ids.get(frame));
        let ids = ids.skip_while(|id| self.allocating.contains(id));
        ids.copied().collect()
    }
}

impl Table {
    fn new(max: usize) -> Self {
        let mut strings = Strings {
            table: Vec::new(),
            places: HashMap::new(),
            bytes: 0,
        };
        strings.place("");
        Self {
            max,
            strings,
            mappings: Vec::new(),
            locations: Vec::new(),
            functions: Vec::new(),
        }
    }

    /// How long it is, at least: a location takes 14 bytes, 7 of them for its address.
    const fn len(&self) -> usize {
        self.strings.bytes + 14 * self.locations.len()
    }

    /// Makes a location of each address, and says which.
    fn locations(&mut self, samples: &[(&Stack, [i64; 2])]) -> Result<Locations, ProfileTooLarge> {
        let frames = samples.iter().flat_map(|(stack, _)| &stack.frames);
        let addresses: HashSet<usize> = frames.copied().collect();
        let mut addresses: Vec<_> = addresses.into_iter().collect();
        // One image after the other, of which few are kept open.
        addresses.sort_unstable();
        let images = self.map(&addresses);
        let mut functions = HashMap::new();
        let mut locations = Locations::default();
        symbols::resolve(addresses, |address, mut at| {
            let id = self.locations.len() as u64 + 1;
            let image = images.iter().find(|image| image.has(address));
            let mapping_id = image.map_or(0, |image| image.id);
            self.resolved(mapping_id, &at);
            // Of a call that allocates, whoever makes it is of interest, not how a vector grows.
            let allocating = at.iter().take_while(|it| it.allocates()).count();
            if allocating < at.len() {
                at.drain(..allocating);
            } else if allocating > 0 {
                locations.allocating.insert(id);
            }
            let line = at.into_iter().map(|function| Line {
                line: function.line.into(),
                function_id: self.function(&mut functions, &function),
            });
            let line = line.collect();
            self.locations.push(Location {
                id,
                mapping_id,
                address: call(address) as u64,
                line,
            });
            locations.ids.insert(address, id);
            self.len() <= self.max
        });
        match self.len() > self.max {
            true => Err(ProfileTooLarge { max: self.max }),
            false => Ok(locations),
        }
    }

    /// Makes mappings of the images that addresses are in. That of the program is the first, which
    /// it is for readers.
    fn map(&mut self, addresses: &[usize]) -> Vec<Image> {
        let mut found: Vec<_> = mappings::executable();
        found.retain(|mapping| {
            let is_in = |address: &usize| mapping.addresses.contains(&call(*address));
            // They are in order.
            let from =
                addresses.partition_point(|address| call(*address) < mapping.addresses.start);
            addresses.get(from).is_some_and(is_in)
        });
        // Both have a mark where the file was replaced.
        let program = std::env::current_exe().unwrap_or_default();
        let is_program = |mapping: &Mapping| Path::new(&mapping.file) == program;
        found.sort_by_key(|mapping| !is_program(mapping));
        let mut build_ids = HashMap::new();
        let mut images = Vec::new();
        for mapping in found {
            let id = images.len() as u64 + 1;
            let build_id = build_ids
                .entry(mapping.file.clone())
                .or_insert_with(|| mapping.build_id().unwrap_or_default());
            self.mappings.push(ProfileMapping {
                id,
                memory_start: mapping.addresses.start as u64,
                memory_limit: mapping.addresses.end as u64,
                file_offset: mapping.offset,
                filename: self.strings.place(mapping.file_name()),
                build_id: self.strings.place(build_id),
                // Until one of its addresses is found to have none.
                has_functions: true,
                has_filenames: false,
                has_line_numbers: false,
                has_inline_frames: false,
            });
            images.push(Image { id, mapping });
        }
        images
    }

    /// Notes what is known of an image by one of its addresses. Some functions have names even where
    /// it was stripped, and some that were written in assembly have no file where others have.
    fn resolved(&mut self, mapping_id: u64, at: &[Function]) {
        let mapping = self.mappings.iter_mut().find(|it| it.id == mapping_id);
        if let Some(mapping) = mapping {
            mapping.has_functions &= !at.is_empty();
            mapping.has_filenames |= at.iter().any(|function| !function.file.is_empty());
            let lines = at.iter().any(|function| function.line > 0);
            mapping.has_line_numbers |= lines;
            // Whoever knows lines knows what was inlined.
            mapping.has_inline_frames |= lines;
        }
    }

    fn function(&mut self, known: &mut HashMap<[i64; 3], u64>, function: &Function) -> u64 {
        let strings = &mut self.strings;
        let [name, system_name, filename] =
            [&function.name, &function.system_name, &function.file].map(|it| strings.place(it));
        *known
            .entry([name, system_name, filename])
            .or_insert_with(|| {
                let id = self.functions.len() as u64 + 1;
                self.functions.push(ProfileFunction {
                    id,
                    name,
                    system_name,
                    filename,
                });
                id
            })
    }

    fn labels(&mut self, stack: &Stack) -> Vec<Label> {
        let state = if stack.retained { "retained" } else { "live" };
        let groups = stack.groups.iter().flatten();
        let groups = groups.map(|(kind, name)| (*kind, name.as_str()));
        let labels = groups.chain([("state", state)]);
        let labels = labels.map(|(key, value)| Label {
            key: self.strings.place(key),
            str: self.strings.place(value),
        });
        labels.collect()
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> ValueType {
        ValueType {
            r#type: self.strings.place(kind),
            unit: self.strings.place(unit),
        }
    }

    fn comments(&mut self, profile: &HeapProfile) -> Vec<i64> {
        let HeapProfile { dropped, cut, .. } = profile;
        let since = match profile.window {
            None => "since the process began",
            Some(_) => "meanwhile",
        };
        let comments = [
            (
                dropped,
                format!("{dropped} blocks have found no record {since}"),
            ),
            (cut, format!("{cut} stacks have more frames, further out")),
        ];
        let comments = comments.into_iter().filter(|(count, _)| **count > 0);
        comments
            .map(|(_, text)| self.strings.place(&text))
            .collect()
    }
}

/// A mapping, and its number.
struct Image {
    id: u64,
    mapping: Mapping,
}

impl Image {
    fn has(&self, address: usize) -> bool {
        self.mapping.addresses.contains(&call(address))
    }
}

impl Strings {
    fn place(&mut self, text: &str) -> i64 {
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        let place = self.table.len() as i64;
        self.bytes += text.len();
        self.table.push(text.to_owned());
        self.places.insert(text.to_owned(), place);
        place
    }
}

/// An address of the call that returns to this one, as readers want it.
const fn call(address: usize) -> usize {
    address.saturating_sub(1)
}

fn nanos(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    whole(since.as_nanos())
}

fn whole(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[test]
    fn profile_that_is_too_long_is_refused_and_the_cap_is_named() {
        let stack = |address| Stack {
            frames: vec![address; 3],
            groups: [None, None],
            retained: false,
        };
        let weight = Weight {
            objects: 1.0,
            bytes: 100.0,
        };
        let mut profile = HeapProfile {
            stacks: HashMap::from([(stack(7), weight)]),
            mean_bytes: 512,
            dropped: 0,
            cut: 0,
            taken: SystemTime::now(),
            at: Instant::now(),
            window: None,
        };
        let len = write(&profile).unwrap().len();
        assert!(len < 500, "{len}");
        let error = write_within(&profile, 50).unwrap_err().to_string();
        assert!(error.contains("longer than 50 bytes"), "{error}");
        // Before all locations were made.
        profile.stacks = (1..1_000).map(|it| (stack(it), weight)).collect();
        assert_eq!(
            write_within(&profile, 500),
            Err(ProfileTooLarge { max: 500 })
        );
    }
}
