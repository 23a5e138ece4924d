//! The requests through vmicache-format, on the executor that `vmicache serve` runs on.

use beside_imago::{Plan, Sum};
use bytes::Bytes;
use std::path::Path;
use vmicache_format::Result;
use vmicache_format::files::{ChainOptions, Format, NamedFiles, open_chain};
use vmicache_format::runtime::LocalRuntime;

fn main() {
    let plan = Plan::from_command_line();
    let runtime = LocalRuntime::new();
    let done: Result<Sum> = runtime.block_on(async {
        let options =
            ChainOptions { writable: plan.write, named_files: NamedFiles::Allow, ..ChainOptions::default() };
        let disk = open_chain(Path::new(&plan.file), Format::Qcow2, &options, runtime.clone()).await?;
        let data = Bytes::from_static(plan.buffer());
        let mut sum = Sum::default();
        for offset in plan.offsets(disk.size()) {
            if plan.write {
                disk.write(offset, data.clone()).await?;
            } else {
                sum.add(&disk.read(offset, plan.len as u64).await?);
            }
        }
        if plan.write {
            disk.flush().await?;
        }
        Ok(sum)
    });
    done.expect("every request succeeds").report();
}
