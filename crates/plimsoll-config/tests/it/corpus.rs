//! The seeds of the fuzz target, and mutations of them, without a fuzzer.

use std::{collections::BTreeMap, fs, panic, path::Path};

#[path = "../../fuzz/load.rs"]
mod target;

/// What every broken seed is told, in part.
const TOLD: &[(&str, &str)] = &[
    (
        "bad-adapter-name",
        "`adapters.name` is a.b, but must be 1 to 128 bytes",
    ),
    (
        "bad-adapter-twice",
        "`adapters.a` is listed twice, first at adapters.yaml:1:",
    ),
    (
        "bad-adapter-without-name",
        "`adapters` has an item without a name",
    ),
    (
        "bad-adapters-are-a-group",
        "`adapters` is a group of 1, but must be a list",
    ),
    (
        "bad-address",
        "`server.listen` is localhost, but must be an address",
    ),
    (
        "bad-alias-of-itself",
        "is an alias for something that it is itself a part of",
    ),
    (
        "bad-billion-laughs",
        "makes more than 200000 values, aliases included",
    ),
    (
        "bad-contradiction",
        "1:26: `lifecycle.drain_delay` is 30s, but must be shorter than",
    ),
    ("bad-deep", "is deeper than 32 lists and groups"),
    (
        "bad-duplicate-key",
        "`lifecycle` is there twice, first at config.yaml:1:1",
    ),
    (
        "bad-duration",
        "`lifecycle.stop_timeout` is 1h30, but must be a time",
    ),
    (
        "bad-group-is-a-text",
        "`lifecycle` is soon, but must be a group",
    ),
    (
        "bad-list-as-key",
        "is a list or a group where a key must be",
    ),
    ("bad-merge-key", "is a merge key"),
    ("bad-negative", "`lifecycle.max_tasks` is -1, but"),
    (
        "bad-not-a-number",
        "`breaker.jitter` is .nan, but must be a number",
    ),
    ("bad-null", "`lifecycle.max_tasks` is nothing, but"),
    ("bad-out-of-range", "`breaker.failure_rate` is 101, but"),
    (
        "bad-overflow",
        "`lifecycle.max_tasks` is 18446744073709551616, but",
    ),
    ("bad-preset", "`breaker.preset` is lan, but must be one of"),
    (
        "bad-root-is-a-list",
        "is a list of 1, but must be a group of settings",
    ),
    (
        "bad-secret-is-a-list",
        "`server.token` is a list of 1, but must be a text",
    ),
    (
        "bad-size-by-name",
        "1:33: `cache.budgets./b` is lots, but must be a size",
    ),
    (
        "bad-sizes-are-a-list",
        "`cache.budgets` is a list of 1, but must be a group of names",
    ),
    ("bad-tab", "is no YAML: "),
    ("bad-tag", "has the tag !x"),
    ("bad-two-documents", "is a second document"),
    ("bad-unclosed", "is no YAML: "),
    ("bad-unit", "`cache.size` is 64XiB, but must be a size"),
    ("bad-unknown-alias", "is no YAML: "),
    (
        "bad-unknown-key",
        "`lifecycel` is not known: did you mean `lifecycle`?",
    ),
    (
        "bad-unknown-nested-key",
        "`breaker.slow_calls.longer` is not known: did you mean `longer_than`?",
    ),
    (
        "bad-variable-for-no-adapter",
        "`adapters.maik` is not known: did you mean `mail`?",
    ),
    (
        "bad-variable-for-two-adapters",
        "is about `a-b` and about `a_b`",
    ),
    (
        "bad-variable-gives-the-list",
        "`adapters` is a list, which a variable cannot give",
    ),
    ("bad-variable-names-nothing", "PLIMSOLL__: names no setting"),
    (
        "bad-variable-of-a-value",
        "is a part of PLIMSOLL__CACHE, which is a value",
    ),
    (
        "bad-variable-of-one-size",
        "`cache.budgets.ask` is one of several sizes by name",
    ),
    (
        "bad-variable-twice",
        "PLIMSOLL__cache: names the same setting as PLIMSOLL__CACHE",
    ),
    (
        "bad-wrong-type",
        "`lifecycle.max_tasks` is many, but must be a whole number",
    ),
];

fn seeds() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let seeds = fs::read_dir(folder).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read_to_string(entry.path()).unwrap())
    });
    seeds.collect()
}

#[test]
fn seeds_are_what_their_names_say() {
    let seeds = seeds();
    assert!(seeds.len() >= 60, "{}", seeds.len());
    let mut told: BTreeMap<_, _> = TOLD.iter().copied().collect();
    for (name, text) in &seeds {
        let loaded = target::load(text);
        if name.starts_with("good-") {
            assert!(loaded.is_ok(), "{name}: {loaded:?}");
            continue;
        }
        let expected = told.remove(&**name);
        let expected = expected.unwrap_or_else(|| panic!("{name} is not among those told of"));
        let error = loaded.expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    assert!(told.is_empty(), "there is no seed for {told:?}");
}

/// Changes a text a little: cuts, doubles, swaps and inserts pieces of it and of another.
fn mutate(random: &mut fastrand::Rng, text: &str, other: &str) -> String {
    const PIECES: &[&str] = &[
        "\n",
        "  ",
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "\"",
        "'",
        "#",
        "&a ",
        "*a",
        "|\n",
        ">",
        "!",
        "~",
        "?",
        "\t",
        "\r\n",
        "\u{feff}",
        "ä",
        "😀",
        "---\n",
        "-1",
        "0",
        "99999999999999999999",
        "1e400",
        "off",
        "null",
        "breaker",
        "name",
        "\\x00",
        "%",
        "<<: ",
        "\n>>> adapters.yaml\nadapters:\n",
        "\n>>> environment\nPLIMSOLL__",
        "__",
        "=",
    ];
    let mut text: Vec<char> = text.chars().collect();
    let other: Vec<char> = other.chars().collect();
    for _ in 0..random.usize(1..6) {
        let from = random.usize(0..=text.len());
        let to = (from + random.usize(0..12)).min(text.len());
        let piece: Vec<char> = match random.u8(0..5) {
            0 => Vec::new(),
            1 => text[from..to].repeat(2),
            2 => random
                .choice(PIECES)
                .map_or_else(Vec::new, |piece| piece.chars().collect()),
            3 => {
                let from = random.usize(0..=other.len());
                let to = (from + random.usize(0..40)).min(other.len());
                other[from..to].to_vec()
            }
            _ => vec![random.char('\0'..)],
        };
        text.splice(from..to, piece);
    }
    text.into_iter().collect()
}

#[test]
fn mutations_of_the_seeds_load_or_are_refused() {
    let seeds: Vec<String> = seeds().into_values().collect();
    let mut random = fastrand::Rng::with_seed(0x5eed);
    let mut loaded = 0;
    const MUTATIONS: usize = 4_000;
    for mutation in 0..MUTATIONS {
        let (one, other) = (
            random.choice(&seeds).unwrap(),
            random.choice(&seeds).unwrap(),
        );
        let text = mutate(&mut random, one, other);
        match panic::catch_unwind(|| target::load(&text)) {
            Ok(result) => loaded += usize::from(result.is_ok()),
            Err(_) => panic!("mutation {mutation} panics: {text:?}"),
        }
    }
    // Neither way is only said to be tried.
    let some = MUTATIONS / 20..MUTATIONS - MUTATIONS / 20;
    assert!(some.contains(&loaded), "{loaded} of {MUTATIONS} load");
}
