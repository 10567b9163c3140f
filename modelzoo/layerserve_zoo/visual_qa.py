"""Visual question answering: picks a one-word answer to a question about a picture."""

from layergraph import Input, Model, Sequential
from layergraph.layers import LSTM, Conv2D, Dense, Embedding, Flatten, MaxPooling2D, concatenate


def build(
    size: int = 224, words: int = 100, vocabulary: int = 10000, filters: int = 64, units: int = 256, answers: int = 1000
) -> Model:
    """From a colour image (rows, size, size, 3), size at least 30, and word ids (rows, words) to (rows, answers)."""
    # First, let's define a vision model using a Sequential model. This model will encode an image into a vector.
    vision_model = Sequential(name="vision_model")
    vision_model.add(Input(shape=(size, size, 3)))
    vision_model.add(Conv2D(filters, (3, 3), activation="relu", padding="same"))
    vision_model.add(Conv2D(filters, (3, 3), activation="relu"))
    vision_model.add(MaxPooling2D((2, 2)))
    vision_model.add(Conv2D(2 * filters, (3, 3), activation="relu", padding="same"))
    vision_model.add(Conv2D(2 * filters, (3, 3), activation="relu"))
    vision_model.add(MaxPooling2D((2, 2)))
    vision_model.add(Conv2D(4 * filters, (3, 3), activation="relu", padding="same"))
    vision_model.add(Conv2D(4 * filters, (3, 3), activation="relu"))
    vision_model.add(Conv2D(4 * filters, (3, 3), activation="relu"))
    vision_model.add(MaxPooling2D((2, 2)))
    vision_model.add(Flatten())

    # Now let's get a tensor with the output of our vision model:
    image_input = Input(shape=(size, size, 3), name="image")
    encoded_image = vision_model(image_input)

    # Next, let's define a language model to encode the question into a vector. Words are indexed as integers.
    question_input = Input(shape=(words,), dtype="int32", name="question")
    embedded_question = Embedding(input_dim=vocabulary, output_dim=units)(question_input)
    encoded_question = LSTM(units, name="encoded_question")(embedded_question)

    # Let's concatenate the question vector and the image vector:
    merged = concatenate([encoded_question, encoded_image])

    # And let's train a logistic regression over the answers on top:
    output = Dense(answers, activation="softmax", name="answer")(merged)

    # This is our final model:
    return Model(inputs=[image_input, question_input], outputs=output)
