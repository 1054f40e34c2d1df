//! Losses of options, computed for many questions together and each prompt once, against one document an option.

use dora_models::linear::Pass;
use dora_models::model::Model;
use dora_tensor::no_grad;
use dora_tensor::ops::{IGNORE, token_losses};
use dora_tests::{Case, load_frozen};
use dora_train::answers::option_losses;
use dora_train::data::{Choice, FAMILIES, Question};

/// A question of these tokens.
fn question(prompt: &[u32], completions: &[&[u32]]) -> Question {
    let family = FAMILIES[2];
    let option = |(word, ids): (&&'static str, &&[u32])| Choice { word, completion: ids.to_vec() };
    let options = family.iter().zip(completions).map(option).collect();
    Question { prompt: prompt.to_vec(), options, gold: 0, family, hash: String::new() }
}

/// The losses by definition: every option's document on its own, from the first token in which the options differ.
fn expected(model: &dyn Model, question: &Question) -> Vec<f64> {
    let completions: Vec<&Vec<u32>> = question.options.iter().map(|o| &o.completion).collect();
    let same = |at: usize| completions.iter().all(|c| c.get(at).is_some() && c.get(at) == completions[0].get(at));
    let common = (0..).take_while(|&at| same(at)).count();
    let of = |completion: &&Vec<u32>| {
        let ids: Vec<u32> = question.prompt.iter().chain(*completion).copied().collect();
        let target = |at: usize| match ids.get(at + 1) {
            Some(&id) if at + 1 >= question.prompt.len() + common => id as i32,
            _ => IGNORE,
        };
        let targets: Vec<i32> = (0..ids.len()).map(target).collect();
        let losses = no_grad(|| {
            let hidden = model.hidden(&ids, &Pass::new(&[ids.len()]))?;
            token_losses(&hidden, &model.head(), &targets)
        });
        losses.unwrap().into_iter().map(f64::from).sum()
    };
    completions.iter().map(of).collect()
}

#[test]
fn losses_by_definition() {
    let model = load_frozen(&Case::open("llama_plain").model_dir());
    let questions = [
        // The usual case: options differ in their last token.
        question(&[3, 17, 9, 40, 2], &[&[5, 6, 11], &[5, 6, 12], &[5, 6, 13], &[5, 6, 80]]),
        // One token each, behind a prompt of one.
        question(&[7], &[&[1], &[2]]),
        // Differing lengths; one option's beginning is all but the end of another; a shared beginning in two of three.
        question(&[30, 31, 32, 33, 34, 35, 36], &[&[8, 9], &[8, 10, 11, 12], &[8, 10, 11, 13, 14]]),
        // Nothing in common.
        question(&[90, 2, 90], &[&[4, 4, 4], &[5], &[6, 4], &[7, 4, 4, 4], &[4, 5]]),
    ];
    let want: Vec<Vec<f64>> = questions.iter().map(|q| expected(&*model, q)).collect();
    // All together; some together; each alone, where a question is longer than the batch.
    for batch_tokens in [10_000, 20, 1] {
        let mut got: Vec<Vec<f64>> = Vec::new();
        option_losses(&*model, &questions, batch_tokens, |losses| got.push(losses)).unwrap();
        assert_eq!(got.len(), want.len(), "{batch_tokens}");
        for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
            assert!((got - want).abs() < 2e-5 * want.abs().max(1.0), "{got} {want} in batches of {batch_tokens}");
        }
    }
    let mut count = 0;
    option_losses(&*model, [], 100, |_| count += 1).unwrap();
    assert_eq!(count, 0);
}
