import torch
from torch import nn

from wbcbench.evaluation.cost import latency, macs, parameters


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.drop = nn.Dropout()
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        return self.head(self.drop(self.conv(images["a"])).mean((2, 3))).softmax(-1)


def test_macs_and_parameters_by_hand():
    net = Net().train()
    net.drop.eval()
    assert parameters(net) == 3 * 4 * 9 + 4 * 2 + 2
    assert macs(net, {"a": torch.zeros(1, 3, 8, 8)}) == 8 * 8 * 4 * 3 * 9 + 4 * 2
    assert net.training
    assert not net.drop.training


def test_latency():
    sizes = []

    def images(n):
        sizes.append(n)
        return {"a": torch.zeros(n, 3, 8, 8)}

    out = latency(Net(), images, "cpu", seconds=0.01)
    assert sizes == [1, 32]
    assert out["latency_ms"] > 0
    assert out["throughput"] > 0
    assert (out["device"], out["threads"]) == ("cpu", torch.get_num_threads())
