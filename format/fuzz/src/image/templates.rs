//! Sound images, small ones of every kind, that inputs change. They are the same every time.

use super::Setting;
use super::disks::Files;
use super::script::data;
use super::store::Store;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use vmicache_format::Result;
use vmicache_format::cache::BaseIdentity;
use vmicache_format::qcow2::{self, CacheOptions, Compression, CreateOptions, DataFileOptions, Mode};
use vmicache_format::runtime::LocalRuntime;

const KIB: u64 = 1 << 10;

/// Images that stock tools made; see `fuzz/seeds/images/make`.
const STOCK: [&[u8]; 6] = [
    include_bytes!("../../seeds/images/snapshots"),
    include_bytes!("../../seeds/images/snapshots-v2"),
    include_bytes!("../../seeds/images/bitmaps"),
    include_bytes!("../../seeds/images/compressed"),
    include_bytes!("../../seeds/images/extended-l2"),
    include_bytes!("../../seeds/images/lazy-refcounts"),
];

/// How an image of ours is made: its options, and the kilobytes of its disk.
fn options(number: usize) -> Option<CreateOptions> {
    let backing = || Some(("base".to_owned(), "raw".to_owned()));
    let new = |cluster_size, kib| CreateOptions { cluster_size, ..CreateOptions::new(kib * KIB) };
    let cache = |cluster_size, kib, quota| CreateOptions {
        backing: backing(),
        cache: Some(CacheOptions { quota, base: Some(BaseIdentity::Version("1".into())) }),
        ..new(cluster_size, kib)
    };
    let data_file = |raw| Some(DataFileOptions { name: "data".into(), raw });
    let all = [
        new(512, 200),
        CreateOptions { version: 2, ..new(512, 200) },
        CreateOptions { backing: backing(), ..new(4 * KIB, 301) },
        CreateOptions { compression: Compression::Zstd, ..new(4 * KIB, 300) },
        CreateOptions { refcount_bits: 1, ..new(4 * KIB, 300) },
        CreateOptions { refcount_bits: 64, ..new(512, 100) },
        CreateOptions { extended_l2: true, backing: backing(), ..new(16 * KIB, 777) },
        CreateOptions {
            extended_l2: true,
            refcount_bits: 2,
            compression: Compression::Zstd,
            ..new(64 * KIB, 900)
        },
        new(64 * KIB, 5000),
        // Its L1 table and its disk are as large as small files can have them.
        new(2 << 10, 1 << 21),
        new(2 << 20, 1 << 36),
        CreateOptions { data_file: data_file(false), backing: backing(), ..new(4 * KIB, 300) },
        CreateOptions { data_file: data_file(true), ..new(4 * KIB, 300) },
        cache(512, 300, 150 * KIB),
        cache(4 * KIB, 400, u64::MAX),
        CreateOptions { extended_l2: true, ..cache(16 * KIB, 300, 300 * KIB) },
        CreateOptions { lazy_refcounts: true, refcount_bits: 8, ..new(KIB, 100) },
        CreateOptions { version: 2, ..cache(64 * KIB, 300, 1 << 20) },
    ];
    all.into_iter().nth(number)
}

/// How many templates there are.
pub const COUNT: usize = 18 + STOCK.len();

thread_local! {
    static MADE: RefCell<BTreeMap<usize, Rc<Vec<u8>>>> = const { RefCell::new(BTreeMap::new()) };
}

/// The template with a number; the numbers begin anew behind the last one.
pub fn template(number: u8) -> Rc<Vec<u8>> {
    let number = usize::from(number) % COUNT;
    if let Some(made) = MADE.with_borrow(|made| made.get(&number).cloned()) {
        return made;
    }
    let image = match options(number) {
        Some(options) => make(&options).expect("the options are right"),
        None => STOCK[number - (COUNT - STOCK.len())].to_vec(),
    };
    let image = Rc::new(image);
    MADE.with_borrow_mut(|made| made.insert(number, image.clone()));
    image
}

fn make(options: &CreateOptions) -> Result<Vec<u8>> {
    let store = Store::new(Rc::default());
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        qcow2::create(&store, "new", options).await?;
        let setting = Setting {
            is_backed: options.backing.is_some(),
            small_cache: false,
            small_batches: false,
            in_path: true,
            only_leaks: false,
            wrong_data_file: false,
        };
        let files = Files::new(store.clone(), &setting).await;
        match options.cache {
            Some(_) => fill(&files, &setting, &runtime).await,
            None => write(&files, &setting, options, &runtime).await,
        }
    })?;
    Ok(store.get(0, store.length()))
}

/// Something in several tables, with all kinds of clusters.
async fn write(
    files: &Files,
    setting: &Setting,
    options: &CreateOptions,
    runtime: &Rc<LocalRuntime>,
) -> Result<()> {
    let disk = files.open(Mode::Write, setting, runtime).await?;
    let cluster = options.cluster_size;
    let write = async |offset, len| disk.write(offset, Bytes::from(data(offset, len, 1))).await;
    if cluster == 2 << 20 {
        // Data would make the file too large.
        return disk.close().await;
    }
    write(0, 700).await?;
    write(3 * cluster - 100, cluster / 2 + 200).await?;
    let behind = options.size / 2 / cluster * cluster;
    write(behind, 3000.min(cluster)).await?;
    if options.version >= 3 {
        disk.write_zeroes(cluster, cluster).await?;
        disk.write_zeroes(3 * cluster, cluster / 8).await?;
    }
    if options.data_file.is_none() {
        for number in 5..8 {
            let pattern = Bytes::from(data(number * cluster, cluster, 3));
            disk.write_compressed(number * cluster, pattern).await?;
        }
    }
    disk.discard(behind + cluster, cluster).await?;
    write(options.size - 600, 600).await?;
    disk.close().await
}

async fn fill(files: &Files, setting: &Setting, runtime: &Rc<LocalRuntime>) -> Result<()> {
    let disk = files.open(Mode::Fill, setting, runtime).await?;
    for (offset, len) in [(0, 5000), (30_000, 10_000), (200_000, 500), (299_000, 2000)] {
        disk.read(offset, len).await?;
    }
    disk.close().await
}
