from portico.ziti.listener.spin import Spin


def looks(*samples: tuple[float, float, int, int]) -> list[bool]:
    spin = Spin(20)
    return [spin.look(*sample) for sample in samples]


def test_busy_with_nothing() -> None:
    assert looks(*((second, 0.8 * second, 1000, 3) for second in range(25))) == [False] * 20 + [True] * 5


def test_busy_with_traffic() -> None:
    assert not any(looks(*((second, 0.9 * second, second * 10 * 2**20, 3) for second in range(60))))


def test_busy_with_new_connections() -> None:
    assert not any(looks(*((second, 0.9 * second, 0, second) for second in range(60))))


def test_not_busy() -> None:
    assert not any(looks(*((second, 0.1 * second, 0, 0) for second in range(60))))


def test_busy_before() -> None:
    assert not any(looks(*((second, min(second, 15), 0, 0) for second in range(25)))[25:])
    assert not looks((0, 0, 0, 0), (15, 15, 0, 0), (40, 15.1, 0, 0))[-1]


def test_a_connection_that_is_not_counted_any_more() -> None:
    assert not any(looks((0, 0, 50 * 2**20, 1), (20, 19, 0, 1)))
