//! The program as a whole: what it prints, and how it refuses to start.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

/// A folder for one test, with a little markdown in it.
fn folder(test: &str) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a new folder");
    fs::write(folder.join("README.md"), "The service stops in phases.").expect("a new file");
    folder.to_str().expect("a path in UTF-8").to_owned()
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adapter-gateway"))
        .args(args)
        .output()
        .expect("the program runs")
}

fn refused(args: &[&str], code: i32) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(code));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn load_run_stops_by_itself_and_sums_up() {
    let root = folder("program-load");
    let output = run(&[
        "--listen=127.0.0.1:0",
        "--admin=127.0.0.1:0",
        "--load=200ms",
        &format!("--docs={root}"),
        &format!("--data={root}/data"),
    ]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with("listening on http://127.0.0.1:"),
        "{text}"
    );
    assert!(lines[1].starts_with("admin on http://127.0.0.1:"), "{text}");
    assert!(
        lines[2..5].iter().all(|line| line.starts_with("curl ")),
        "{text}"
    );
    for line in ["errors    0", "failures  none"] {
        assert!(lines.contains(&line), "{text}");
    }
}

#[test]
fn bad_command_lines_are_explained() {
    for (arg, expected) in [
        ("--nonsense", "unexpected argument '--nonsense'"),
        ("--listen=here", "'here' for '--listen <ADDR>'"),
        ("--admin=127.0.0.1:99999", "'--admin <ADDR>'"),
        ("--load=soon", "write for example 30s"),
        ("--load=2h", "at most 1h"),
    ] {
        let error = refused(&[arg], 2);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_keeps_it_from_starting_is_said_in_one_line() {
    let root = folder("program-refused");
    let docs = format!("--docs={root}");
    let data = format!("--data={root}/data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let listen = "--listen=127.0.0.1:0";
    let admin = "--admin=127.0.0.1:0";
    for (args, flag, remedy) in [
        (
            [listen, &*format!("--admin={taken}"), &docs, &data],
            format!("--admin {taken}: "),
            "the port is in use",
        ),
        (
            [&*format!("--listen={taken}"), admin, &docs, &data],
            format!("--listen {taken}: "),
            "choose another port, or 0",
        ),
        (
            [listen, admin, &format!("--docs={root}/docs"), &data],
            format!("--docs {root}/docs: "),
            "README.md or docs/**/*.md",
        ),
        (
            [listen, admin, &docs, &format!("--data={root}/README.md/data")],
            format!("--data {root}/README.md/data: "),
            "name a folder that can be written",
        ),
    ] {
        let error = refused(&args, 1);
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains(&flag), "{error}");
        assert!(error.contains(remedy), "{error}");
    }
}
