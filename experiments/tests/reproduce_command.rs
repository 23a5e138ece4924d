//! `vmicache reproduce`, run as a user runs it.

use assert_cmd::Command;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Output;
use tempfile::tempdir;

fn vmicache(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("vmicache").unwrap();
    command.arg("reproduce").args(arguments);
    command
}

fn reproduce(out: &Path, arguments: &[&str]) {
    vmicache(&["--out", out.to_str().unwrap()]).args(arguments).assert().success();
}

/// Every file in the folder with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read =
        |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    fs::read_dir(folder).unwrap().map(|entry| read(entry.unwrap())).collect()
}

fn stderr_of_failure(command: &mut Command) -> String {
    let output = command.assert().failure().get_output().clone();
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn every_file_has_the_same_bytes_on_one_and_on_two_threads() {
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    reproduce(one.path(), &["--quick", "--threads", "1"]);
    reproduce(two.path(), &["--quick", "--threads", "2"]);
    let (one, two) = (files(one.path()), files(two.path()));
    assert!(one.keys().eq(two.keys()), "{:?} and {:?}", one.keys(), two.keys());
    for (name, bytes) in &one {
        assert!(two[name] == *bytes, "{name} differs");
    }
    for name in ["T1.csv", "T2.csv", "T2-pairs.csv", "T2-left-out.csv", "F4.csv", "F4.parquet", "report.html"]
    {
        assert!(one.contains_key(name), "{name} is missing among {:?}", one.keys());
    }
    for figure in ["F1", "F2", "F3", "F5", "F6", "F7"] {
        for file in [".csv", ".parquet", "-debian-12-minimal.png", "-debian-12-minimal.svg"] {
            assert!(
                one.contains_key(&format!("{figure}{file}")),
                "{figure}{file} is missing among {:?}",
                one.keys()
            );
        }
    }
}

#[test]
fn only_the_named_experiments_run() {
    let out = tempdir().unwrap();
    reproduce(out.path(), &["--quick", "--only", "t1"]);
    let files = files(out.path());
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["T1.csv", "T1.parquet", "report.html"]);
    let report = String::from_utf8(files["report.html"].clone()).unwrap();
    assert!(report.contains("not judged: needs T2"));
}

#[test]
fn the_table_carries_a_row_a_cell_with_its_provenance() {
    let out = tempdir().unwrap();
    reproduce(out.path(), &["--quick", "--only", "T1"]);
    let table = fs::read_to_string(out.path().join("T1.csv")).unwrap();
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    for column in
        ["vmicache_version", "plan", "guest_sha256", "boot_sha256", "disk_bytes", "working_set_bytes"]
    {
        assert!(header.contains(&column), "{column} is missing in {header:?}");
    }
    // Three boots of each guest at three granularities.
    let guests: BTreeSet<&str> = column(&table, "guest").into_iter().collect();
    assert_eq!(lines.count(), 9 * guests.len());
    assert!(!table.contains(out.path().to_str().unwrap()) && !table.contains(env!("CARGO_MANIFEST_DIR")));
}

/// The column of that name, as a table's file has it.
fn column<'t>(table: &'t str, name: &str) -> Vec<&'t str> {
    let mut lines = table.lines();
    let place = lines.next().unwrap().split(',').position(|column| column == name);
    let place = place.unwrap_or_else(|| panic!("{name} is missing in {table}"));
    lines.map(|line| line.split(',').nth(place).unwrap()).collect()
}

#[test]
fn each_boot_is_left_out_once_with_every_layout_of_clusters_and_margin() {
    let out = tempdir().unwrap();
    reproduce(out.path(), &["--quick", "--only", "T2"]);
    let table = fs::read_to_string(out.path().join("T2-left-out.csv")).unwrap();
    let margins = column(&table, "margin");
    let guests: BTreeSet<&str> = column(&table, "guest").into_iter().collect();
    // Three boots, five layouts of clusters, two margins.
    assert_eq!(margins.len(), guests.len() * 30);
    let number = |text: &str| text.parse::<f64>().unwrap();
    let smallest = column(&table, "smallest_quota_bytes");
    let sizes = column(&table, "cluster_size_bytes");
    for (row, quota) in column(&table, "quota_bytes").into_iter().enumerate() {
        let least = number(smallest[row]) * (1.0 + number(margins[row]));
        assert!(number(quota) >= least && number(quota) < least + number(sizes[row]), "row {row}");
    }
    let covered = column(&table, "covered");
    for (left, covered) in column(&table, "base_bytes_read_again").into_iter().zip(&covered) {
        assert_eq!(left == "0", *covered == "1");
    }
    let report = fs::read_to_string(out.path().join("report.html")).unwrap();
    assert!(report.contains("Recommended by the other boots") && report.contains("no evidence about other"));
}

/// What a plain overlay reads is the line that filling a cache must stay below to cost nothing.
#[test]
fn filling_caches_with_subclusters_draws_less_than_plain_overlays_in_every_boot() {
    let out = tempdir().unwrap();
    reproduce(out.path(), &["--quick", "--only", "T2,F4"]);
    let table = fs::read_to_string(out.path().join("F4.csv")).unwrap();
    let columns = ["boot", "layout", "cluster_size_bytes", "extended_l2", "quota_bytes", "base_bytes_read"];
    let columns = columns.map(|name| column(&table, name));
    let row = |row: usize| columns.each_ref().map(|column| column[row]);
    let number = |text: &str| text.parse::<u64>().unwrap();
    // By boot: the plain overlay, and for each layout of clusters what is read at the largest quota.
    let mut plain = BTreeMap::new();
    let mut cold: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    for [boot, layout, size, extended, quota, read] in (0..columns[0].len()).map(row) {
        match layout {
            "plain" => drop(plain.insert(boot, number(read))),
            "cold" => {
                let largest = cold.entry((boot, size, extended)).or_default();
                *largest = (number(quota), number(read)).max(*largest);
            }
            _ => {}
        }
    }
    let guests: BTreeSet<&str> = column(&table, "guest").into_iter().collect();
    assert_eq!((plain.len(), cold.len()), (3 * guests.len(), 15 * guests.len()));
    for ((boot, size, extended), (_, read)) in &cold {
        let draws_less = *read < plain[boot];
        assert_eq!(
            draws_less,
            (*size, *extended) != ("65536", "0"),
            "{boot}, {size}, extended L2 {extended}"
        );
    }
    let report = fs::read_to_string(out.path().join("report.html")).unwrap();
    let said = "Every boot draws less than its plain overlay with such clusters of 64 KiB, 128 KiB.";
    assert_eq!(report.matches(said).count(), guests.len());
    assert!(report.contains("Their quota counts whole clusters"));

    // Room is taken by whole clusters: with subclusters no less of it than without.
    let needs = fs::read_to_string(out.path().join("T2.csv")).unwrap();
    let columns = ["filled_by_sha256", "cluster_size_bytes", "extended_l2", "cache_data_bytes"];
    let columns = columns.map(|name| column(&needs, name));
    let of = |kind: &str| -> BTreeMap<&str, u64> {
        let rows = (0..columns[0].len()).map(|row| columns.each_ref().map(|column| column[row]));
        let of_kind = rows.filter(|[_, size, extended, _]| (*size, *extended) == ("65536", kind));
        of_kind.map(|[boots, _, _, data]| (boots, number(data))).collect()
    };
    assert!(!of("1").is_empty() && of("0") == of("1"), "{:?} and {:?}", of("0"), of("1"));
}

#[test]
fn storms_have_a_row_a_run_with_its_provenance_and_share_the_plain_ones() {
    let out = tempdir().unwrap();
    reproduce(out.path(), &["--quick", "--only", "F1,F5"]);
    let read = |name: &str| fs::read_to_string(out.path().join(name)).unwrap();
    let (plain, cached) = (read("F1.csv"), read("F5.csv"));
    // Networks, CPU seconds, nodes and replications; cold and warm.
    let runs = 2 * 3 * 3 * 3;
    // Beside them the two ends of the nodes' axis past the page cache.
    assert_eq!(plain.lines().count(), 1 + runs + 2 * 2 * 3);
    assert_eq!(cached.lines().count(), 1 + 3 * runs);
    for name in
        ["vmicache_version", "plan", "sweep", "hardware_sha256", "guest_sha256", "boots_sha256", "seed"]
    {
        assert!(column(&cached, name).iter().all(|value| !value.is_empty()), "{name}");
    }
    // The rows of F1 are the first of F5.
    assert_eq!(column(&plain, "boot_mean_s")[..runs], column(&cached, "boot_mean_s")[..runs]);
    // Where nothing of F2 has been run, nothing is said of it.
    let report = read("report.html");
    assert!(report.contains("not judged: needs F2 in full") && !report.contains("F2: boot time"));
    // More nodes move more over the storage node's port, unless their caches are warm.
    let bytes = |state: &str, nodes: &str| -> u64 {
        let rows = column(&cached, "state").into_iter().zip(column(&cached, "nodes"));
        let bytes = rows.zip(column(&cached, "base_bytes"));
        bytes.filter(|(row, _)| *row == (state, nodes)).map(|(_, bytes)| bytes.parse::<u64>().unwrap()).sum()
    };
    for state in ["", "cold"] {
        assert!(bytes(state, "4") > 3 * bytes(state, "1"), "{state}");
    }
    assert!(100 * bytes("warm", "4") < bytes("cold", "4"));
}

#[test]
fn the_report_needs_nothing_beside_itself() {
    let out = tempdir().unwrap();
    reproduce(out.path(), &["--quick"]);
    let report = fs::read_to_string(out.path().join("report.html")).unwrap();
    for elsewhere in ["src=\"http", "href=\"http", "url(http", "@import", "<script", "<link"] {
        assert!(!report.contains(elsewhere), "the report asks for {elsewhere}");
    }
    for claim in 1..=16 {
        assert!(report.contains(&format!("id=\"C{claim}\"")), "C{claim} is missing");
    }
    // Small storms judge nothing.
    assert!(report.contains("not judged: needs F1 in full"));
}

#[test]
fn an_unknown_experiment_is_answered_with_those_there_are() {
    let message = stderr_of_failure(&mut vmicache(&["--only", "T1,F99"]));
    assert!(message.contains("F99"), "{message}");
    for name in ["T1", "T2", "F1", "F2", "F3", "F4", "F5", "F6", "F7"] {
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn an_output_folder_that_cannot_be_made_is_an_error_that_leaves_nothing() {
    let place = tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    let out = file.join("deeper/out");
    let message = stderr_of_failure(&mut vmicache(&["--quick", "--out", out.to_str().unwrap()]));
    assert!(message.contains("cannot make the output folder") && message.contains("deeper/out"), "{message}");
    assert_eq!(fs::read(&file).unwrap(), b"not a folder");
}

#[test]
fn results_that_cannot_be_put_in_their_place_leave_the_earlier_ones_whole() {
    let out = tempdir().unwrap();
    reproduce(out.path(), &["--quick", "--only", "T1"]);
    let before = fs::read(out.path().join("T1.csv")).unwrap();
    fs::remove_file(out.path().join("report.html")).unwrap();
    fs::create_dir_all(out.path().join("report.html/in the way")).unwrap();
    let arguments = ["--quick", "--only", "T1", "--out", out.path().to_str().unwrap()];
    let message = stderr_of_failure(&mut vmicache(&arguments));
    assert!(message.contains("cannot write") && message.contains("report.html"), "{message}");
    assert_eq!(fs::read(out.path().join("T1.csv")).unwrap(), before);
    let names: Vec<_> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "something was left behind: {names:?}");
}

/// A file system of 64 KiB in a mount namespace of its own, where the tests may make one.
#[test]
fn a_full_disk_is_an_error_that_leaves_nothing_half_written() {
    let place = tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=64k none \"$1\" || exit 77";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]);
    let output = command.args(shell(mount, place.path())).output().unwrap();
    if matches!(output.status.code(), Some(1 | 77)) {
        // Namespaces are forbidden here, as unshare or the shell says; a limit on the length of files stands in.
        eprintln!("no file system can be made: {}", String::from_utf8_lossy(&output.stderr));
        return files_that_cannot_grow_leave_nothing_half_written();
    }
    assert_nothing_left(&output, "No space left on device");
}

/// A limit on the length of files stops writing as a full disk does, wherever the tests run.
#[test]
fn files_that_cannot_grow_leave_nothing_half_written() {
    let place = tempdir().unwrap();
    let [shell, arguments @ ..] = shell("ulimit -f 64", place.path());
    let output = Command::new(shell).args(arguments).output().unwrap();
    assert_nothing_left(&output, "File too large");
}

/// A shell that does what `first` says, runs the program with `$1` as its output folder, and lists what is there.
fn shell(first: &str, out: &Path) -> [String; 5] {
    let program = assert_cmd::cargo::cargo_bin!("vmicache").to_str().unwrap();
    let run =
        format!("'{program}' reproduce --quick --only T1 --out \"$1\"; code=$?; ls -A \"$1\"; exit $code");
    ["sh", "-c", &format!("{first}; {run}"), "sh", out.to_str().unwrap()].map(str::to_owned)
}

fn assert_nothing_left(output: &Output, why: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("cannot write") && message.contains(why), "{message}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "something was left behind");
}

#[test]
fn a_standard_output_that_is_full_or_has_gone_makes_no_panic() {
    let out = tempdir().unwrap();
    let program = assert_cmd::cargo::cargo_bin!("vmicache").to_str().unwrap();
    let out = out.path().to_str().unwrap();
    for command in [format!("reproduce --quick --only T1 --out '{out}'"), "completions zsh".to_owned()] {
        for (stdout, code) in [("> /dev/full", 2), ("| true", 0), (">&-", 0)] {
            let script = format!("{{ '{program}' {command}; echo $? >&2; }} {stdout}");
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            let message = String::from_utf8(output.stderr).unwrap();
            assert_eq!(
                message.lines().last(),
                Some(code.to_string().as_str()),
                "{command} {stdout}: {message}"
            );
            assert_eq!(message.contains("cannot write to standard output"), code == 2, "{message}");
        }
    }
}

#[test]
fn a_number_of_threads_that_cannot_be_is_refused() {
    for number in ["0", "-1", "1025", "many"] {
        let message = stderr_of_failure(&mut vmicache(&["--threads", number]));
        assert!(message.contains(&format!("'{number}' for '--threads <N>'")), "{message}");
    }
}

#[test]
fn guests_that_are_not_described_right_are_refused() {
    let description = |name: &str, disk: u64, boots: &str| {
        format!(
            "name = {name:?}\ntitle = \"A guest\"\ndisk_bytes = {disk}\nallocated_bytes = 512\nboots = [{boots}]\n"
        )
    };
    let right = description("a", 4096, "\"a.csv\"");
    for (other, part) in [
        (description("../a", 4096, "\"a.csv\""), "name is \"../a\""),
        (description("", 4096, "\"a.csv\""), "name is \"\""),
        (description("b", 1000, "\"a.csv\""), "disk_bytes is 1000"),
        (description("b", 0, "\"a.csv\""), "disk_bytes is 0"),
        (description("b", 4096, ""), "boots is empty"),
        (description("b", 4096, "\"a.csv\", \"a.csv\""), "boots has a twice"),
        (description("b", 4096, "\"missing.csv\""), "cannot read"),
        (
            description("b", 4096, "\"a.csv\"") + "learn_from_delay_ms = 20",
            "no slowed boot has the storage delay",
        ),
        (description("b", 4096, "\"a.csv\"") + "learn_from_delay_ms = -1", "a delay of -1 ms"),
        (description("b", 4096, "\"odd.csv\""), "odd.csv: storage-delay-ms is \"much\""),
        (right.clone(), "two guests have the name \"a\""),
    ] {
        let (data, place) = (tempdir().unwrap(), tempdir().unwrap());
        fs::write(data.path().join("a.toml"), &right).unwrap();
        fs::write(data.path().join("b.toml"), other).unwrap();
        fs::write(data.path().join("a.csv"), "start_us,end_us,op,offset,length\n0,1,read,0,512\n").unwrap();
        let odd = "# storage-delay-ms: much\nstart_us,end_us,op,offset,length\n0,1,read,0,512\n";
        fs::write(data.path().join("odd.csv"), odd).unwrap();
        let out = place.path().join("out");
        let arguments = ["--data", data.path().to_str().unwrap(), "--out", out.to_str().unwrap()];
        let message = stderr_of_failure(&mut vmicache(&arguments));
        assert!(message.contains(part), "{part}: {message}");
        assert!(!out.exists());
    }
}

#[test]
fn a_folder_without_guests_is_an_error_that_says_what_belongs_there() {
    let (data, place) = (tempdir().unwrap(), tempdir().unwrap());
    let out = place.path().join("out");
    let arguments = ["--data", data.path().to_str().unwrap(), "--out", out.to_str().unwrap()];
    let message = stderr_of_failure(&mut vmicache(&arguments));
    assert!(message.contains("no guest is described"), "{message}");
    assert!(!out.exists());
}

#[test]
fn a_boot_that_does_not_fit_the_disk_is_an_error_that_names_file_and_request() {
    let (data, place) = (tempdir().unwrap(), tempdir().unwrap());
    let guest = "name = \"small\"\ntitle = \"Small\"\ndisk_bytes = 4096\nallocated_bytes = 4096\nboots = [\"small.csv\"]\n";
    fs::write(data.path().join("small.toml"), guest).unwrap();
    fs::write(data.path().join("small.csv"), "start_us,end_us,op,offset,length\n0,1,read,4096,512\n")
        .unwrap();
    let out = place.path().join("out");
    let arguments = ["--data", data.path().to_str().unwrap(), "--out", out.to_str().unwrap()];
    let message = stderr_of_failure(&mut vmicache(&arguments));
    assert!(message.contains("small.csv") && message.contains("request 1"), "{message}");
    assert!(!out.exists());
}
