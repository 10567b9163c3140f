"""Video question answering: parts of the trained image model, reused frame by frame and as a question encoder."""

from layergraph import Input, Model
from layergraph.layers import LSTM, Dense, TimeDistributed, concatenate

from layerserve_zoo import visual_qa


def build(
    frames: int = 100,
    size: int = 224,
    words: int = 100,
    vocabulary: int = 10000,
    filters: int = 64,
    units: int = 256,
    answers: int = 1000,
) -> Model:
    """From a video (rows, frames, size, size, 3), size at least 30, and word ids (rows, words) to (rows, answers)."""
    # We can turn our image question answering model into a video question answering model.
    image_qa = visual_qa.build(size, words, vocabulary, filters, units, answers)
    vision_model = image_qa.get_layer("vision_model")

    video_input = Input(shape=(frames, size, size, 3), name="video")
    # This is our video encoded via the previously trained vision_model (weights are reused)
    encoded_frame_sequence = TimeDistributed(vision_model)(video_input)  # the output will be a sequence of vectors
    encoded_video = LSTM(units)(encoded_frame_sequence)  # the output will be a vector

    # This is a model-level representation of the question encoder, reusing the same weights as before:
    question_encoder = Model(
        inputs=image_qa.get_layer("question").output,
        outputs=image_qa.get_layer("encoded_question").output,
        name="question_encoder",
    )

    # Let's use it to encode the question:
    video_question_input = Input(shape=(words,), dtype="int32", name="question")
    encoded_video_question = question_encoder(video_question_input)

    # And this is our video question answering model:
    merged = concatenate([encoded_video, encoded_video_question])
    output = Dense(answers, activation="softmax", name="answer")(merged)

    return Model(inputs=[video_input, video_question_input], outputs=output)
