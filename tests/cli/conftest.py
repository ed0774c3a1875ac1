from pictures import one_thread, own_hub  # noqa: F401
