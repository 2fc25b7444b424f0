#!/usr/bin/env bash
# The main job on the sample data: find nuclei without any training, then convert, fine-tune to four classes, evaluate,
# predict and score. `make demo` calls it.
#   ITERATIONS (300)            how long to train
#   DEMO_OUTPUT (output/demo)   where everything goes
set -euo pipefail
cd "$(dirname "$0")/.."
iterations=${ITERATIONS:-300}
config=configs/finetune_nuclei.yaml
output=${DEMO_OUTPUT:-output/demo}
export DETECTRON2_DATASETS=$output/datasets
started=$SECONDS

run() {
    printf '\n$ python %s\n' "$*"
    python "$@"
}

printf 'Everything goes to %s; DETECTRON2_DATASETS=%s\n' "$output" "$DETECTRON2_DATASETS"
run tools/predict.py --weights nuclei --input datasets/sample/test_release \
    --image-ids datasets/sample/test_image_name_to_ids.json --output "$output/nuclei" --overwrite
run tools/visualize.py predictions --input datasets/sample/test_release \
    --image-ids datasets/sample/test_image_name_to_ids.json --predictions "$output/nuclei/test-results.json" \
    --output "$output/nuclei.png"
printf '\nNuclei found without any training, after %d s: %s\n' "$((SECONDS - started))" "$output/nuclei.png"

run tools/convert_tifs.py --input datasets/sample --output "$DETECTRON2_DATASETS/nuclei" --overwrite
run tools/visualize.py augmentation --config-file "$config" --output "$output/augmentation.png" \
    CELLSEG.DATASET nuclei
run tools/train_net.py --overwrite --config-file "$config" CELLSEG.DATASET nuclei \
    SOLVER.MAX_ITER "$iterations" OUTPUT_DIR "$output/model" SEED 42
run tools/plot_curves.py --metrics "$output/model/metrics.json" --output "$output/curves.png"
run tools/train_net.py --eval-only --config-file "$config" CELLSEG.DATASET nuclei \
    MODEL.WEIGHTS "$output/model/model_best.pth" OUTPUT_DIR "$output/evaluation"
run tools/predict.py --weights "$output/model/model_best.pth" --input datasets/sample/test_release \
    --image-ids datasets/sample/test_image_name_to_ids.json --output "$output/predictions" --overwrite
run tools/evaluate.py --ground-truth datasets/sample/test_gt.json --predictions "$output/predictions/test-results.json" \
    --output "$output/scores" --overwrite
run tools/visualize.py predictions --input datasets/sample/test_release \
    --image-ids datasets/sample/test_image_name_to_ids.json --predictions "$output/predictions/test-results.json" \
    --ground-truth datasets/sample/test_gt.json --output "$output/predictions.png"
run tools/report.py evaluation --ground-truth datasets/sample/test_gt.json \
    --predictions "$output/predictions/test-results.json" --input datasets/sample/test_release \
    --image-ids datasets/sample/test_image_name_to_ids.json --output "$output/evaluation.html"
run tools/report.py training "$output/model" --output "$output/training.html"

ap50=$(python -c 'import json, sys; print("%.1f" % json.load(open(sys.argv[1]))["segm"]["AP50"])' \
    "$output/scores/metrics.json")
cat <<END

Done in $((SECONDS - started)) s.
  nuclei, without any training      $output/nuclei.png
  mask AP50 on the 25 test images   $ap50
  how good it is, image by image    $output/evaluation.html
  how the training went             $output/training.html
  results to hand in                $output/predictions/test-results.json
  image, ground truth, prediction   $output/predictions.png
  overlays                          $output/predictions/overlays/
  loss curves                       $output/curves.png
  what augmentation does            $output/augmentation.png
  the model                         $output/model/model_best.pth
END
