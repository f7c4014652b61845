"""Where an export keeps what it says of itself."""

MODEL_CARD = "assets.extra/model_card.json"
