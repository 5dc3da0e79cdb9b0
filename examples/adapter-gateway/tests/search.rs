//! Both kinds of search over a corpus on disk.

use adapter_gateway::{
    BoxError,
    chroma::Chroma,
    corpus::{Corpus, Passage},
    question::{Failure, Found, TOP, judge},
    sql::Sql,
    vector::{self, Index},
};
use axum::{Router, routing::post};
use http::{StatusCode, header};
use plimsoll::{HttpClientConfig, Outcome};
use std::{
    fs, future,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// An empty folder for one test.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a new folder");
    folder
}

fn corpus(texts: &[&str]) -> Corpus {
    let passage = |text: &&str| Passage {
        text: (*text).to_owned(),
        source: format!("docs/{}.md", text.split(' ').next().unwrap_or_default()),
    };
    texts.iter().map(passage).collect()
}

async fn sources(answer: impl Future<Output = Result<Vec<Found>, Failure>>) -> Vec<String> {
    let found = answer.await.expect("an answer");
    assert!(found.is_sorted_by(|a, b| b.score <= a.score));
    found.into_iter().map(|f| f.passage.source).collect()
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}/")
}

fn chroma(url: &str) -> Result<Chroma, BoxError> {
    let limits = HttpClientConfig::new().max_response_bytes(256 * 1024);
    Chroma::new("vector", url, limits)
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(axum::serve(listener, app).into_future());
    address
}

#[test]
fn corpus_is_the_readme_and_all_markdown_below_docs() {
    let root = folder("corpus");
    fs::create_dir_all(root.join("docs/guide")).unwrap();
    fs::write(root.join("README.md"), "# Read\n\nme").unwrap();
    fs::write(root.join("docs/guide/a.md"), b"# A b\n\nstray \xff byte").unwrap();
    fs::write(root.join("docs/z.md"), "text").unwrap();
    fs::write(root.join("docs/c.txt"), "no markdown").unwrap();
    fs::write(root.join("other.md"), "elsewhere").unwrap();
    let corpus = Corpus::read(&root).unwrap();
    let sources: Vec<_> = corpus.passages().iter().map(|p| &*p.source).collect();
    assert_eq!(
        sources,
        ["README.md#read", "docs/guide/a.md#a-b", "docs/z.md"]
    );
    assert!(corpus.passages()[1].text.contains("stray \u{fffd} byte"));
}

#[test]
fn folder_without_markdown_or_with_too_much_is_refused() {
    let root = folder("corpus-refused");
    let error = Corpus::read(&root).unwrap_err().to_string();
    assert!(error.contains("README.md or docs/**/*.md"), "{error}");
    fs::write(root.join("README.md"), "x".repeat(1024 * 1024 + 1)).unwrap();
    let error = Corpus::read(&root).unwrap_err().to_string();
    assert!(error.contains("larger than 1048576 bytes"), "{error}");
}

#[tokio::test]
async fn sql_ranks_the_best_match_first_and_gives_the_top_only() {
    let texts: Vec<_> = (0..20).map(|n| format!("{n} queue of work")).collect();
    let mut texts: Vec<_> = texts.iter().map(|text| &**text).collect();
    texts.push("drain queue delay");
    let sql = Sql::open(&folder("sql-rank"), &corpus(&texts)).unwrap();
    let sources = sources(sql.clone().ask("How are queues drained?".into())).await;
    assert_eq!(sources.len(), TOP);
    assert_eq!(sources[0], "docs/drain.md");
}

#[tokio::test]
async fn sql_takes_any_question_as_mere_words() {
    let sql = Sql::open(&folder("sql-nasty"), &corpus(&["drain delay", "near by"])).unwrap();
    for (question, expected) in [
        ("drain\"", 1),
        ("\"drain", 1),
        ("drain*", 1),
        ("dra*", 0),
        ("^drain", 1),
        ("NEAR(drain delay, 0)", 2),
        ("drain AND zebra", 1),
        ("drain NOT delay", 1),
        ("OR OR OR", 0),
        ("source:drain", 1),
        ("{text source} : drain", 1),
        ("-text:drain", 1),
        ("drain' OR 1=1; DROP TABLE passages; --", 1),
        ("drain\0delay", 1),
        ("(((((", 0),
        ("\"\"", 0),
        ("½ ⅷ 𝟘 🦀 ﷺ", 0),
        ("Ｄｒａｉｎ дренаж 排水", 0),
        ("\u{301}\u{200b}\u{202e}drain", 1),
        ("?1 ?2 $x :x @x", 0),
        ("", 0),
    ] {
        let found = sql.clone().ask(question.into()).await;
        assert_eq!(found.map(|found| found.len()), Ok(expected), "{question:?}");
    }
    let long = "drain ".repeat(1_000) + &(0..3_000).map(|n| format!("{n} ")).collect::<String>();
    assert_eq!(
        sources(sql.clone().ask(long.as_str().into())).await,
        ["docs/drain.md"]
    );
}

#[tokio::test]
async fn more_questions_than_connections_are_all_answered() {
    let sql = Sql::open(&folder("sql-many"), &corpus(&["drain delay"])).unwrap();
    let asked: Vec<_> = (0..64)
        .map(|_| {
            let sql = sql.clone();
            tokio::spawn(async move { sources(sql.ask("drain".into())).await })
        })
        .collect();
    for answer in asked {
        assert_eq!(answer.await.unwrap(), ["docs/drain.md"]);
    }
}

#[tokio::test]
async fn database_is_kept_for_the_same_corpus_and_replaced_for_another() {
    let data = folder("sql-rebuild");
    let inode = || fs::metadata(data.join("passages.db")).unwrap().ino();
    Sql::open(&data, &corpus(&["drain delay"])).unwrap();
    let first = inode();

    let same = Sql::open(&data, &corpus(&["drain delay"])).unwrap();
    assert_eq!(inode(), first);
    assert_eq!(
        sources(same.clone().ask("drain".into())).await,
        ["docs/drain.md"]
    );

    let other = Sql::open(&data, &corpus(&["memory limit"])).unwrap();
    assert!(sources(other.clone().ask("drain".into())).await.is_empty());
    assert_eq!(
        sources(other.clone().ask("memory".into())).await,
        ["docs/memory.md"]
    );
    // What is open goes on with the database that it opened.
    assert_eq!(
        sources(same.clone().ask("drain".into())).await,
        ["docs/drain.md"]
    );
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
}

#[tokio::test]
async fn broken_database_is_replaced() {
    let data = folder("sql-broken");
    fs::write(data.join("passages.db"), "not a database").unwrap();
    let sql = Sql::open(&data, &corpus(&["drain delay"])).unwrap();
    assert_eq!(
        sources(sql.clone().ask("drain".into())).await,
        ["docs/drain.md"]
    );
}

#[test]
fn database_that_cannot_be_put_in_place_leaves_nothing_behind() {
    let data = folder("sql-in-the-way");
    // A folder of that name, with something in it, cannot be replaced by a file.
    fs::create_dir_all(data.join("passages.db/kept")).unwrap();
    assert!(Sql::open(&data, &corpus(&["drain delay"])).is_err());
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
}

#[tokio::test]
async fn chroma_finds_what_the_vector_service_holds_until_it_is_cancelled() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let chroma = chroma(&url(listener.local_addr().unwrap())).unwrap();
    let index = Index::new(corpus(&["drain delay", "memory limit"]));
    let token = CancellationToken::new();
    let service = tokio::spawn(vector::serve(listener, Arc::new(index), token.clone()));
    assert_eq!(
        sources(chroma.clone().ask("the drain?".into())).await,
        ["docs/drain.md"]
    );
    token.cancel();
    service.await.unwrap();
    let failure = chroma
        .ask("the drain?".into())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        failure.contains("no answer from http://127.0.0.1:"),
        "{failure}"
    );
}

#[tokio::test]
async fn chroma_passes_on_when_to_ask_again() {
    let busy = (
        StatusCode::SERVICE_UNAVAILABLE,
        [(header::RETRY_AFTER, "7")],
    );
    let app = Router::new().route("/api/v1/query", post(move || async move { busy }));
    let chroma = chroma(&url(serve(app).await)).unwrap();
    let failure = chroma.ask("why?".into()).await.unwrap_err();
    assert_eq!(failure.retry_after(), Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn chroma_refuses_answers_that_are_too_large_or_not_understood() {
    for (body, expected) in [
        (
            " ".repeat(256 * 1024 + 1),
            "larger than `max_response_bytes`, 262144",
        ),
        ("{}".to_owned(), "missing field"),
    ] {
        let app = Router::new().route("/api/v1/query", post(move || async move { body }));
        let chroma = chroma(&url(serve(app).await)).unwrap();
        let failure = chroma.ask("why?".into()).await.unwrap_err().to_string();
        assert!(failure.contains(expected), "{failure}");
    }
}

// It takes the second for which one waits: a paused clock would go on while the first one connects.
#[tokio::test]
async fn a_connection_that_is_not_free_is_not_held_against_the_vector_service() {
    let hang = || async { future::pending::<StatusCode>().await };
    let app = Router::new().route("/api/v1/query", post(hang));
    let limits = HttpClientConfig::new().max_connections(1);
    let chroma = Chroma::new("vector", &url(serve(app).await), limits).unwrap();
    let _taken = tokio::spawn(chroma.clone().ask("first?".into()));
    tokio::task::yield_now().await;
    let failure = chroma.ask("second?".into()).await.unwrap_err();
    assert!(
        failure.to_string().contains("no connection free"),
        "{failure}"
    );
    let error = failure.into();
    assert_eq!(judge(Err(&error), Duration::ZERO), Outcome::Ignore);
}

#[test]
fn urls_that_no_vector_service_can_have_are_refused_with_an_example() {
    for url in [
        "",
        "127.0.0.1:8000",
        "https://127.0.0.1",
        "http://",
        "ftp://a",
        "http://a b",
    ] {
        let error = chroma(url).unwrap_err().to_string();
        assert!(error.contains(&format!("url `{url}` is")), "{error}");
        assert!(error.contains("http://127.0.0.1:8000"), "{error}");
    }
    assert!(chroma("http://localhost:8000/").is_ok());
}
