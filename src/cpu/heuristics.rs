//! Every choice of a size on the CPU: how problems are cut into tasks, what is worth waking whom.

use crate::problem::Problem;
use std::time::Duration;

/// Below this many bytes the caller works alone: even a spinning helper's caches are cold.
pub const WORTH_SHARING: usize = 64 * 1024;
/// From this many bytes on, waking rayon's workers (tens of microseconds) is lost in the work.
pub const WORTH_WAKING: usize = 16 * 1024 * 1024;
/// How long decode's helpers spin after a call; an engine's next layer comes within that time.
pub const DEFAULT_SPIN: Duration = Duration::from_micros(50);

/// Flash kernels keep an output row of this many elements per thread; standard MHA has no bound.
pub const MAX_FLASH_HEAD_DIM: usize = 512;

/// The most query heads of a task, which bounds its scratch.
const MOST_TASK_HEADS: usize = 1024;

/// Query rows of a task of standard MHA.
pub const STANDARD_ROWS: usize = 4;

/// Query rows of a panel of prefill, whose scores stay in the L1 cache between its three steps: a
/// multiple of every register block's rows.
pub const PANEL: usize = 48;

/// How many rows of memory packing looks ahead.
pub const ROWS_AHEAD: usize = 8;

/// The most rows of a register block.
pub const MAX_BLOCK_ROWS: usize = 12;

/// How a decode problem is cut into tasks.
pub struct DecodePlan {
    /// Tokens of a block, whose scores are turned into weights together.
    pub block: usize,
    /// Tokens read side by side: as many streams of memory, each in the order of its addresses.
    pub step: usize,
    /// How many tokens before their use rows are prefetched.
    pub ahead: usize,
    /// Tokens per run.
    pub run: usize,
    /// Runs per sequence.
    pub splits: usize,
    /// Key/value heads per task.
    pub task_heads: usize,
    /// Query heads of a group per task, and tasks that share a group: more than one only of very
    /// large groups, where a task has a single key/value head.
    pub task_group: usize,
    pub group_parts: usize,
    /// Tasks that share a run's heads.
    pub shares: usize,
    /// Floats of one head's running state: its sums, then maximum and denominator.
    pub state_stride: usize,
}

/// Tokens that are worth a run of their own where there are more threads than key/value heads.
const SHORTEST_RUN: usize = 512;

impl DecodePlan {
    /// `finer`: whether the number of threads may decide how long a run is.
    pub fn new(p: &Problem, threads: usize, finer: bool) -> Self {
        // Four streams suffice from head_dim 128 on; short rows are worth more tokens at a time.
        let block = (4096 / p.head_dim).clamp(32, 128) / 16 * 16;
        let step = (512 / p.head_dim).clamp(4, block);
        // A token's keys that a task reads should span 2 KiB, or the hardware prefetcher has nothing
        // to run ahead on.
        let token_bytes = p.head_dim * p.key.dtype.size();
        let most_shares = (p.kv_heads * token_bytes / 2048).max(1);
        // Few, long runs: their states are all the memory that decode needs beside the scratch.
        let fewest = p.kv_len.div_ceil((p.kv_len / 2).clamp(2048, 4096));
        let busy = threads.div_ceil(p.batch * p.kv_heads).min(p.kv_len / SHORTEST_RUN);
        let splits = if finer { fewest.max(busy) } else { fewest };
        let run = p.kv_len.div_ceil(splits).next_multiple_of(block);
        let splits = p.kv_len.div_ceil(run);
        // Two tasks per thread even out a busy machine; one each is worth shorter reads.
        let wanted = |tasks: usize| tasks.div_ceil(p.batch * splits);
        let group_parts = p.group().div_ceil(MOST_TASK_HEADS);
        let task_group = p.group().div_ceil(group_parts).next_multiple_of(4).min(p.group());
        let fewest_shares = p.kv_heads.div_ceil(MOST_TASK_HEADS / task_group.min(MOST_TASK_HEADS));
        let shares = wanted(2 * threads).min(most_shares).max(wanted(threads)).max(fewest_shares);
        let task_heads = p.kv_heads.div_ceil(shares.min(p.kv_heads));
        // Far enough to outlast memory's latency, near enough for the L2 cache to keep it.
        let ahead = (48 * 1024 / (task_heads * token_bytes)).max(2 * step).min(block);
        Self {
            block,
            step,
            ahead,
            run,
            splits,
            task_heads,
            task_group,
            group_parts: p.group().div_ceil(task_group),
            shares: p.kv_heads.div_ceil(task_heads),
            state_stride: (p.value_head_dim + 2).next_multiple_of(4),
        }
    }
}

/// How a prefill problem is cut into tasks.
pub struct PrefillPlan {
    /// Query heads of a group per tile: all of them, unless the group is very large.
    pub heads: usize,
    /// Tiles that share a group's heads.
    pub head_parts: usize,
    /// Query positions per tile.
    pub positions: usize,
    /// Tiles of positions.
    pub tiles: usize,
    /// Rows of a tile, rounded up to whole panels.
    pub rows: usize,
    /// Keys per block.
    pub keys: usize,
    /// Columns of the output tile: value_head_dim rounded up to whole vectors.
    pub columns: usize,
}

impl PrefillPlan {
    pub fn new(p: &Problem, lanes: usize, threads: usize) -> Self {
        // At head_dim 128: 48 KiB each for a block of keys and of values and its scores in the L1 cache
        // beside a panel; queries and output go through the L2 cache panel by panel.
        let width = p.head_dim.max(p.value_head_dim);
        let keys = (12 * 1024 / width).clamp(48, 96) / 16 * 16;
        let most_rows = (48 * 1024 / width).clamp(PANEL, 576) / PANEL * PANEL;
        // Smaller tiles where there are few heads, so that every thread finds work.
        let pairs = p.batch * p.kv_heads;
        let shared = (p.q_len * p.group() * pairs).div_ceil(3 * threads).next_multiple_of(PANEL);
        let heads = p.group().div_ceil(p.group().div_ceil(MOST_TASK_HEADS));
        let positions = (most_rows.min(shared) / heads).clamp(1, p.q_len);
        Self {
            heads,
            head_parts: p.group().div_ceil(heads),
            positions,
            tiles: p.q_len.div_ceil(positions),
            rows: (positions * heads).next_multiple_of(PANEL),
            keys,
            columns: p.value_head_dim.next_multiple_of(lanes),
        }
    }
}
