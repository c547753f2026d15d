"""Names in the messages between server and devices (Flower message types and keys).

| type | down | up |
|---|---|---|
| query.identify | empty | which device it is (Flower's own runtime only) |
| query.enrol | empty | number of training images |
| train.forward | front-end weights and moments (first step of a round) | features, targets |
| train.backward | gradient of the features | nothing; last step: new weights and moments |
| query.deploy | front-end weights | nothing |
| query.infer | trigger on the device itself, not on the wire | features, or the raw image |
| query.answer | the predicted class | nothing |
"""

IDENTIFY = "query.identify"
ENROL = "query.enrol"
FORWARD = "train.forward"
BACKWARD = "train.backward"
DEPLOY = "query.deploy"
INFER = "query.infer"
ANSWER = "query.answer"
TRAINING = frozenset({FORWARD, BACKWARD})
SERVING = frozenset({INFER, ANSWER, DEPLOY})

# Record keys. "arrays" and "config" are Flower's own defaults, which its strategies expect.
ARRAYS = "arrays"
STATISTICS = "statistics"
MOMENTS = "moments"
CONFIG = "config"
METRICS = "metrics"
FEATURES = "features"
GRADIENTS = "gradients"
RAW_IMAGE = "raw-image"

# Keys inside records.
Z = "z"
Z_PACKED = "z.packed"
X = "x"
TARGETS = "targets"
FIRST_MOMENT = "first."
SECOND_MOMENT = "second."
"""Prefixes of the weights' names in the record of Adam's moments."""
DEVICE = "partition-id"  # Flower's key in a node's configuration
NUM_EXAMPLES = "num-examples"  # training images that a device holds; strategies weigh by it
BATCH_IMAGES = "batch-images"  # images of the step that a reply answers
PENALTY = "penalty"
SERVER_ROUND = "server-round"
STEP = "step"
STEPS = "steps"
STEPS_BEFORE = "steps-before"
TIER = "tier"
LEARNING_RATE_SCALE = "learning-rate-scale"
VERSION = "weights-version"
REQUEST = "request"
IMAGE = "image"
ARRIVAL_S = "arrival-s"
ANSWER_CLASS = "class"
RAW = "raw"

# Error codes of replies; Flower's own codes are below 100.
OFFLINE = 101
STRAGGLER = 102
INFEASIBLE = 103
FAILED = 104
STATUS_OF_CODE = {
    OFFLINE: "offline",
    STRAGGLER: "straggler",
    INFEASIBLE: "infeasible",
    FAILED: "failed",
}
