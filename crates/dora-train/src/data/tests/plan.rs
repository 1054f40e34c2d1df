//! Batches and the order of rows: properties over many seeds and sizes.

use std::num::NonZeroUsize;

use dora_tensor::rng::Philox;

use super::*;

const PACK_TO: usize = 32;

/// Rows of 2 to 32 tokens, every id telling its row and position apart from its neighbours'.
fn dataset(rows: usize, seed: u64) -> Dataset {
    let mut rng = Philox::new(seed, 99);
    let rows: Vec<Row> = (0..rows as u32)
        .map(|i| {
            let length = 2 + rng.below(31) as u32;
            let label = |t| if t < length / 2 { IGNORE } else { (i * 100 + t) as i32 };
            Row { input_ids: (0..length).map(|t| i * 100 + t).collect(), labels: (0..length).map(label).collect() }
        })
        .collect();
    Dataset { rows, report: LoadReport::default(), sha256: String::new() }
}

fn plan(dataset: &Dataset, batch_size: usize, grad_accum: usize, pack_to: Option<usize>, seed: Option<u64>) -> Plan {
    let positive = |n| NonZeroUsize::new(n).unwrap();
    let (shuffle, seed) = (seed.is_some(), seed.unwrap_or(0));
    let (batch_size, grad_accum) = (positive(batch_size), positive(grad_accum));
    Plan::new(dataset, PlanOptions { batch_size, grad_accum, pack_to, shuffle, seed })
}

fn sorted(steps: &[Vec<Vec<usize>>]) -> Vec<usize> {
    let mut rows = steps.concat().concat();
    rows.sort_unstable();
    rows
}

#[test]
fn targets_are_shifted_within_each_document() {
    let rows = vec![row(&[5, 6, 7], &[-100, 6, 7]), row(&[8], &[8]), row(&[9, 4], &[9, 4])];
    let dataset = Dataset { rows, report: LoadReport::default(), sha256: String::new() };
    let batch = dataset.batch(&[0, 1, 2]);
    assert_eq!(batch.input_ids, [5, 6, 7, 8, 9, 4]);
    assert_eq!(batch.targets, [6, 7, -100, -100, 4, -100]);
    assert_eq!((batch.lengths, batch.labelled), (vec![3, 1, 2], 3));
}

#[test]
fn batches_keep_every_token_and_label() {
    for seed in 0..10 {
        let dataset = dataset(40, seed);
        let labelled: usize = dataset.rows.iter().map(Row::labelled_tokens).sum();
        for pack_to in [None, Some(PACK_TO)] {
            let steps = plan(&dataset, 3, 2, pack_to, Some(seed)).epoch(0);
            let batches: Vec<Batch> = steps.concat().iter().map(|rows| dataset.batch(rows)).collect();
            assert_eq!(batches.iter().map(|b| b.labelled).sum::<usize>(), labelled);
            for batch in &batches {
                assert_eq!(batch.lengths.iter().sum::<usize>(), batch.input_ids.len());
                assert_eq!(batch.targets.len(), batch.input_ids.len());
                assert_eq!(batch.targets.iter().filter(|&&t| t != IGNORE).count(), batch.labelled);
                // An id's successor is its target: nothing crosses documents.
                let mut pairs = batch.input_ids.iter().zip(&batch.targets);
                assert!(pairs.all(|(&id, &target)| target == IGNORE || target == id as i32 + 1));
            }
        }
    }
}

#[test]
fn every_row_is_seen_once_an_epoch() {
    for seed in 0..10 {
        for (rows, batch_size, grad_accum) in [(1, 1, 1), (1, 8, 4), (17, 4, 2), (40, 3, 5), (64, 8, 1)] {
            let dataset = dataset(rows, seed);
            for pack_to in [None, Some(PACK_TO)] {
                for shuffle in [None, Some(seed)] {
                    let plan = plan(&dataset, batch_size, grad_accum, pack_to, shuffle);
                    for epoch in 0..3 {
                        let steps = plan.epoch(epoch);
                        assert_eq!(sorted(&steps), (0..rows).collect::<Vec<_>>());
                        assert_eq!(steps.len(), plan.steps_per_epoch());
                        let (last, full) = steps.split_last().unwrap();
                        assert!(full.iter().all(|step| step.len() == grad_accum) && !last.is_empty());
                    }
                }
            }
        }
    }
}

#[test]
fn sizes_count_rows_or_bins() {
    let dataset = dataset(17, 0);
    let sizes: Vec<Vec<usize>> =
        plan(&dataset, 4, 2, None, Some(1)).epoch(0).iter().map(|s| s.iter().map(Vec::len).collect()).collect();
    assert_eq!(sizes, [vec![4, 4], vec![4, 4], vec![1]]);
    for shuffle in [None, Some(3)] {
        for micro_batch in plan(&dataset, 1, 1, Some(PACK_TO), shuffle).epoch(0).concat() {
            assert!(dataset.batch(&micro_batch).input_ids.len() <= PACK_TO);
        }
    }
}

#[test]
fn packing_wastes_little() {
    for seed in 0..10 {
        let dataset = dataset(200, seed);
        let tokens: usize = dataset.lengths().iter().sum();
        let bins = plan(&dataset, 1, 1, Some(PACK_TO), Some(seed)).steps_per_epoch();
        assert!(bins * PACK_TO <= tokens * 110 / 100, "{bins} bins for {tokens} tokens");
    }
}

#[test]
fn order_depends_on_seed_and_epoch_alone() {
    let dataset = dataset(40, 7);
    for pack_to in [None, Some(PACK_TO)] {
        let order = |seed, epoch| plan(&dataset, 4, 2, pack_to, seed).epoch(epoch);
        assert_eq!(order(Some(1), 5), order(Some(1), 5));
        assert_ne!(order(Some(1), 0), order(Some(1), 1));
        assert_ne!(order(Some(1), 0), order(Some(2), 0));
        assert_eq!(order(None, 3).concat().concat(), (0..40).collect::<Vec<_>>());
    }
}

#[test]
fn shuffling_puts_every_row_everywhere() {
    let dataset = dataset(5, 0);
    let mut counts = [[0; 5]; 5];
    for seed in 0..1000 {
        for (place, row) in plan(&dataset, 5, 1, None, Some(seed)).epoch(0).concat().concat().into_iter().enumerate() {
            counts[place][row] += 1;
        }
    }
    assert!(counts.iter().flatten().all(|&count| (140..260).contains(&count)), "{counts:?}");
}

#[test]
fn evaluation_goes_in_the_order_of_the_files() {
    let dataset = dataset(30, 2);
    let batches = dataset.eval_batches(64);
    assert_eq!(batches.iter().flat_map(|(rows, _)| rows.clone()).collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());
    for (rows, batch) in &batches {
        assert!(batch.input_ids.len() <= 64 && !rows.is_empty());
        assert_eq!(*batch, dataset.batch(rows));
    }
    assert_eq!(dataset.eval_batches(1).len(), 30);
}
