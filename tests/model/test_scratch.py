def test_x(tiny):
    import os
    print(tiny, sorted(os.listdir(tiny)), sorted(os.listdir(tiny/"packs")))
    import mova_core
    m = mova_core.load(tiny)
    from mova_tiny.samples import sample
    for i in range(3):
        a = m.ask(sample(i).image, "What colour is it?", explain=True)
        print(a.text, a.route, a.route.probabilities, a.images[0].gates, a.seconds)
